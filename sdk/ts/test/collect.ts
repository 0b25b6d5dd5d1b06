/** All that something gives, or the first `count`. */
export async function collect<T>(from: AsyncIterable<T>, count = Infinity): Promise<T[]> {
  const all: T[] = [];
  for await (const one of from) {
    all.push(one);
    if (all.length === count) {
      break;
    }
  }
  return all;
}

/** Waits until a condition holds of what happens in this process. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) {
    await new Promise((resolve) => setTimeout(resolve));
  }
}
