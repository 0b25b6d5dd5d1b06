/** What runs when a signal is aborted. There is one listener for each signal, since Node warns of a leak where a signal has more than ten, as one of many calls has. */
const waiting = new WeakMap<AbortSignal, Set<() => void>>();

/** Runs `ended` when one of the signals is aborted, unless the returned function is called before. */
export function onAbort(signals: readonly (AbortSignal | undefined)[], ended: () => void): () => void {
  const mine = signals.map((signal) => {
    const all = signal && (waiting.get(signal) ?? listen(signal));
    all?.add(ended);
    return all;
  });
  return () => mine.forEach((all) => all?.delete(ended));
}

function listen(signal: AbortSignal): Set<() => void> {
  const all = new Set<() => void>();
  waiting.set(signal, all);
  signal.addEventListener("abort", () => all.forEach((ended) => ended()), { once: true });
  return all;
}
