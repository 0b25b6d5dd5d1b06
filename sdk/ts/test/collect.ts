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
