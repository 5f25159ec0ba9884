// Data that is read again and again while the page is seen. A failure keeps what was there, and says since when it is old.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api.ts";

export interface Polled<T> {
  data: T | null;
  error: ApiError | null;
  /** The browser's time of the data. */
  asOf: number;
  again: () => void;
}

const MAX_PAUSE_MS = 30_000;

/** Read by `read` now and each `everyMs`, while the tab is visible. `key` names what is read: another key begins anew. */
export function usePolled<T>(key: string, everyMs: number, read: (signal: AbortSignal) => Promise<T>): Polled<T> {
  const [held, hold] = useState<{ key: string; data: T | null; error: ApiError | null; asOf: number }>({ key, data: null, error: null, asOf: 0 });
  const [round, setRound] = useState(0);
  const latest = useRef(read);
  latest.current = read;

  useEffect(() => {
    const ended = new AbortController();
    let timer = 0;
    let failures = 0;
    const step = async () => {
      clearTimeout(timer);
      if (document.hidden) return;
      try {
        const data = await latest.current(ended.signal);
        if (ended.signal.aborted) return;
        failures = 0;
        hold({ key, data, error: null, asOf: Date.now() });
      } catch (error) {
        if (ended.signal.aborted) return;
        failures += 1;
        const told = error instanceof ApiError ? error : new ApiError(-1, String(error));
        hold((before) => ({ key, data: before.key === key ? before.data : null, error: told, asOf: before.key === key ? before.asOf : 0 }));
      }
      if (everyMs > 0) timer = window.setTimeout(() => void step(), Math.min(MAX_PAUSE_MS, everyMs * 2 ** Math.min(failures, 5)));
    };
    const shown = () => { if (!document.hidden) void step(); };
    document.addEventListener("visibilitychange", shown);
    void step();
    return () => {
      ended.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [key, everyMs, round]);

  const isSame = held.key === key;
  return { data: isSame ? held.data : null, error: isSame ? held.error : null, asOf: held.asOf, again: () => setRound((before) => before + 1) };
}
