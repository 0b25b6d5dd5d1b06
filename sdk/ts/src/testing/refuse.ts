import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError, type Code } from "@connectrpc/connect";

/** An error of a node with a detail of its own. */
export function refuse<D extends DescMessage>(code: Code, detail: D, value: MessageInitShape<D>): ConnectError {
  return new ConnectError(`refused: ${detail.name}`, code, undefined, [{ desc: detail, value: value as never }]);
}
