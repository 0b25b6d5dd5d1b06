import type { MessageInitShape } from "@bufbuild/protobuf";
import { Role, type ResponseHeaderSchema } from "../gen/raftkv/v1/header_pb.js";
import { shard, type Store } from "./store.js";

/** The header of an answer. */
export function header(store: Store): MessageInitShape<typeof ResponseHeaderSchema> & { revision: bigint } {
  return { clusterId: "00".repeat(15) + "01", nodeId: "node1", shard, term: 1n, revision: store.revision, role: Role.LEADER };
}
