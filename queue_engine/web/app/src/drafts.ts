// What was typed and is not sent yet. It outlives an error and an ended session, and is gone when a key of another tenant
// logs in. It is kept in memory only, because values of environment variables are secret.

import { useState } from "preact/hooks";
import { me } from "./state.ts";

interface Draft {
  tenant: string | null;
  value: unknown;
}

const drafts = new Map<string, Draft>();

/** As `useState`, but the value is still there when the part is shown again. */
export function useDraft<T>(name: string, initial: T): [T, (next: T | ((before: T) => T)) => void] {
  const [value, setValue] = useState<T>(() => kept<T>(name) ?? initial);
  const set = (next: T | ((before: T) => T)) => setValue((before) => {
    const made = typeof next === "function" ? (next as (before: T) => T)(before) : next;
    drafts.set(name, { tenant: tenant(), value: made });
    return made;
  });
  return [value, set];
}

export function forgetDraft(name: string): void {
  drafts.delete(name);
}

/** Forget all that was typed, when the person logs out. */
export function forgetDrafts(): void {
  drafts.clear();
}

function kept<T>(name: string): T | undefined {
  const found = drafts.get(name);
  if (found === undefined || found.tenant !== tenant()) return undefined;
  return found.value as T;
}

function tenant(): string | null {
  return me.value?.tenant ?? null;
}
