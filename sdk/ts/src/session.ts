import { create } from "@bufbuild/protobuf";
import { RequestIdSchema, type RequestId } from "./gen/raftkv/v1/request_id_pb.js";
import type { WriteId } from "./errors.js";

/**
 * How many writes of a session may follow one that is not answered: the cluster keeps the results of all of them, and bounds them (4,096). A session with
 * so many goes on with those that it has, and the next write begins another.
 */
const sessionWindow = 1024;

/** One client id, and the sequences under it that are not answered yet, ascending. */
interface Session {
  readonly clientId: Uint8Array;
  readonly open: Set<number>;
  sequence: number;
}

/** The identity of a write, the same in all its attempts, so that they apply at most once. */
export class Identity implements WriteId {
  /** May rise until an attempt may have been applied; until then every attempt is a first one. */
  seen = 0n;
  readonly #session: Session;
  readonly #sequence: number;
  readonly #ackedBelow: number;

  constructor(
    session: Session,
    readonly subject: WriteId["subject"],
  ) {
    this.#session = session;
    this.#sequence = ++session.sequence;
    session.open.add(this.#sequence);
    this.#ackedBelow = oldest(session) ?? this.#sequence;
  }

  get clientId(): Uint8Array {
    return this.#session.clientId;
  }

  get sequence(): bigint {
    return BigInt(this.#sequence);
  }

  /** The id for one attempt. */
  message(): RequestId {
    const { clientId, sequence, seen } = this;
    return create(RequestIdSchema, { clientId, sequence, seen, ackedBelow: BigInt(this.#ackedBelow) });
  }

  /**
   * Acknowledges the answer, after which the cluster may forget it. Until then nothing that the client sends acknowledges it: a write of unknown outcome stays
   * as it is until it is resolved.
   */
  end(): void {
    this.#session.open.delete(this.#sequence);
  }
}

/** Gives writes their identities. */
export class Sessions {
  #current: Session | undefined;

  begin(subject: WriteId["subject"]): Identity {
    const current = this.#current;
    const first = current && oldest(current);
    if (current === undefined || (first !== undefined && current.sequence - first >= sessionWindow)) {
      this.#current = { clientId: crypto.getRandomValues(new Uint8Array(16)), open: new Set(), sequence: 0 };
    }
    return new Identity(this.#current!, subject);
  }
}

// A Set iterates in the order in which its values were added, which is ascending here.
function oldest(session: Session): number | undefined {
  return session.open.values().next().value;
}
