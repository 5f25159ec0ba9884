// What was typed and is not sent yet. It outlives an error and an ended session, and is gone when another key logs in. It is
// kept in memory only, because values of environment variables are secret. Modules keep nothing typed or read elsewhere.

import { useState } from "preact/hooks";

/** The drafts of one key. Another key begins a new map, so that a late response to the key before writes into the old one. */
let drafts = new Map<string, unknown>();

/** As `useState`, but the value is still there when the part is shown again. */
export function useDraft<T>(name: string, initial: T): [T, (next: T | ((before: T) => T)) => void] {
  const [mine] = useState(drafts);
  const [value, setValue] = useState<T>(() => (mine.get(name) as T | undefined) ?? initial);
  const set = (next: T | ((before: T) => T)) => setValue((before) => {
    const made = typeof next === "function" ? (next as (before: T) => T)(before) : next;
    mine.set(name, made);
    return made;
  });
  return [value, set];
}

export function forgetDraft(name: string): void {
  drafts.delete(name);
}

/** Forget all that was typed. */
export function forgetDrafts(): void {
  drafts = new Map();
}
