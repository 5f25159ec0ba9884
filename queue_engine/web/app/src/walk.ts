// A page of a list that is walked by cursor. A call looks at a limited number of tasks, so a page may take several calls.

export interface Part<T> {
  items: T[];
  nextCursor: string | null;
  scanned: number;
}

export interface Walked<T> {
  items: T[];
  /** The cursor after the last item; null at the end of the list. */
  next: string | null;
  /** Tasks that were looked at. */
  scanned: number;
  calls: number;
  /** True when the page is full or the list is at its end. */
  isDone: boolean;
}

/** Read parts until there are `size` items, the list ends, or `stopped` says so. `told` gets what there is after each. */
export async function walked<T>(
  read: (cursor: string, size: number) => Promise<Part<T>>, start: string, size: number, stopped: () => boolean, told: (now: Walked<T>) => void,
): Promise<Walked<T>> {
  let now: Walked<T> = { items: [], next: start, scanned: 0, calls: 0, isDone: false };
  while (!now.isDone && !stopped()) {
    const part = await read(now.next ?? "", size - now.items.length);
    const items = [...now.items, ...part.items];
    now = { items, next: part.nextCursor, scanned: now.scanned + part.scanned, calls: now.calls + 1, isDone: part.nextCursor === null || items.length >= size };
    told(now);
  }
  return now;
}

/** Put newer states of items in their places. Return them, and how many items there are that the page does not show. */
export function renewed<T>(shown: readonly T[], fresh: readonly T[], idOf: (one: T) => string): { items: T[]; others: number } {
  const found = new Map(fresh.map((one) => [idOf(one), one]));
  const items = shown.map((one) => found.get(idOf(one)) ?? one);
  const known = new Set(shown.map(idOf));
  let others = 0;
  // Those after the first that is known were on the page before, or have come to it from the next page.
  for (const one of fresh) {
    if (known.has(idOf(one))) break;
    others += 1;
  }
  return { items, others };
}
