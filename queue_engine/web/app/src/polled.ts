// Data that is read again and again while the page is seen, or told by the stream of events. A failure keeps what was
// there, and says since when it is old.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api.ts";
import { follow, isLive } from "./events.ts";
import { isPaused } from "./state.ts";

export interface Polled<T> {
  data: T | null;
  error: ApiError | null;
  /** The browser's time of the data. */
  asOf: number;
  again: () => void;
}

/** The topic whose events are the data, and how they become it. Null means that the data is gone. */
export interface Topic<T> {
  name: string;
  take: (event: unknown, before: T | null) => T | null;
}

const MAX_PAUSE_MS = 30_000;

/** Read by `read` now and each `everyMs`, while the tab is visible. `key` names what is read: another key begins anew. */
export function usePolled<T>(key: string, everyMs: number, read: (signal: AbortSignal) => Promise<T>, topic?: Topic<T>): Polled<T> {
  const [held, hold] = useState<{ key: string; data: T | null; error: ApiError | null; asOf: number }>({ key, data: null, error: null, asOf: 0 });
  const [round, setRound] = useState(0);
  const latest = useRef({ read, topic });
  latest.current = { read, topic };
  const isTold = topic !== undefined && isLive.value;
  const pauses = isPaused.value;

  useEffect(() => {
    if (topic === undefined) return;
    return follow(topic.name, (event) => {
      hold((before) => {
        const old = before.key === key ? before.data : null;
        const data = event === null ? null : latest.current.topic?.take(event, old) ?? null;
        if (event === null) return { key, data: old, error: new ApiError(404, "not found"), asOf: before.asOf };
        return data === null ? before : { key, data, error: null, asOf: Date.now() };
      });
    });
  }, [key, topic?.name]);

  useEffect(() => {
    const ended = new AbortController();
    let timer = 0;
    let failures = 0;
    const step = async () => {
      clearTimeout(timer);
      if (document.hidden) return;
      try {
        const data = await latest.current.read(ended.signal);
        if (ended.signal.aborted) return;
        failures = 0;
        hold({ key, data, error: null, asOf: Date.now() });
      } catch (error) {
        if (ended.signal.aborted) return;
        failures += 1;
        const told = error instanceof ApiError ? error : new ApiError(-1, String(error));
        hold((before) => ({ key, data: before.key === key ? before.data : null, error: told, asOf: before.key === key ? before.asOf : 0 }));
      }
      const isOver = everyMs === 0 || pauses || (isTold && failures === 0);
      if (!isOver) timer = window.setTimeout(() => void step(), Math.min(MAX_PAUSE_MS, everyMs * 2 ** Math.min(failures, 5)));
    };
    const shown = () => { if (!document.hidden && !pauses) void step(); };
    document.addEventListener("visibilitychange", shown);
    void step();
    return () => {
      ended.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [key, everyMs, round, isTold, pauses]);

  const isSame = held.key === key;
  return { data: isSame ? held.data : null, error: isSame ? held.error : null, asOf: held.asOf, again: () => setRound((before) => before + 1) };
}
