/** How long an endpoint that failed is passed over while there are others; the time doubles with each failure in a row. */
const ejectMinMs = 50;
const ejectMaxMs = 5000;
/** How many attempts in a row without an answer eject an endpoint: one may have another cause. */
const strikesMax = 3;

/** Says whether calls go to an endpoint. When the time of an ejection is over, calls try it again, and another failure doubles the time. */
export class Health {
  #strikes = 0;
  #ejections = 0;
  #until = 0;

  /** How long the endpoint is passed over from now, in milliseconds. */
  get leftMs(): number {
    return Math.max(0, this.#until - performance.now());
  }

  /** Notes an answer. */
  works(): void {
    this.#strikes = this.#ejections = this.#until = 0;
  }

  /** Notes a failure; `certain` if it can only be the endpoint's. */
  failed(certain: boolean): void {
    if (this.leftMs > 0) {
      return; // what was under way at the ejection says nothing new
    }
    if (certain || ++this.#strikes >= strikesMax) {
      this.#strikes = 0;
      const step = Math.min(ejectMinMs * 2 ** Math.min(this.#ejections++, 10), ejectMaxMs);
      this.#until = performance.now() + jitter(step);
    }
  }
}

/** A time around ms, so that many do not act at once. */
export function jitter(ms: number): number {
  return ms * (0.75 + Math.random() / 2);
}
