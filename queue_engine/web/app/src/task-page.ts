// A page of the list of tasks: read once, then looked at again while that is cheap. Its rows never jump.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, type Schemas, type Task } from "./api.ts";
import { PAGE_SIZE, queryOf, type View } from "./filters.ts";
import { isPaused, now } from "./state.ts";
import { renewed, type Walked, walked } from "./walk.ts";

const AGAIN_MS = 3000;
const NOTHING: Walked<Task> = { items: [], next: null, scanned: 0, calls: 0, isDone: false };

interface Held extends Walked<Task> {
  key: string;
  newer: number;
  isReading: boolean;
  /** The store's time of the latest read. */
  asOf: number;
  error: ApiError | null;
}

/** Read the page of a view. A page that one call has filled is read again every few seconds; another on request. */
export function useTaskPage(endpoint: string, view: View) {
  const key = queryOf(view);
  const [held, hold] = useState<Held>({ ...NOTHING, key, newer: 0, isReading: true, asOf: 0, error: null });
  const [round, setRound] = useState(0);
  const stopped = useRef(false);
  const start = useRef<Walked<Task> | null>(null);

  useEffect(() => {
    const ended = new AbortController();
    let timer = 0;
    const read = (cursor: string, size: number) =>
      get<Schemas["TaskCursorPageView"]>(["serverless", endpoint, "tasks"], { ...view.filters, cursor, pageSize: size }, ended.signal);
    const failed = (caught: unknown) => {
      if (ended.signal.aborted) return;
      const error = caught instanceof ApiError ? caught : new ApiError(-1, String(caught));
      hold((before) => ({ ...before, isReading: false, error }));
    };
    const again = async () => {
      if (ended.signal.aborted) return;
      if (!document.hidden && !isPaused.value) {
        try {
          const fresh = await read(view.cursor, PAGE_SIZE);
          if (ended.signal.aborted) return;
          hold((before) => {
            if (before.items.length === 0) return { ...before, ...fresh, next: fresh.nextCursor, asOf: now.value, error: null };
            const { items, others } = renewed(before.items, fresh.items, (one) => one.taskId);
            return { ...before, items, newer: view.cursor === "" ? others : 0, asOf: now.value, error: null };
          });
        } catch (caught) {
          failed(caught);
        }
      }
      timer = window.setTimeout(() => void again(), AGAIN_MS);
    };
    const first = async () => {
      stopped.current = false;
      const from = start.current;
      start.current = null;
      const told = (page: Walked<Task>) => {
        if (ended.signal.aborted) return;
        const all = from === null ? page : { ...page, items: [...from.items, ...page.items], scanned: from.scanned + page.scanned, calls: from.calls + page.calls };
        hold({ ...all, key, newer: 0, isReading: !page.isDone, asOf: now.value, error: null });
      };
      try {
        const size = PAGE_SIZE - (from?.items.length ?? 0);
        const page = await walked(read, from?.next ?? view.cursor, size, () => stopped.current || ended.signal.aborted, told);
        if (ended.signal.aborted) return;
        hold((before) => ({ ...before, isReading: false }));
        if (page.calls === 1 && page.isDone && from === null) timer = window.setTimeout(() => void again(), AGAIN_MS);
      } catch (caught) {
        failed(caught);
        // The view comes back by itself after an outage, unless the API has refused the filters.
        if (caught instanceof ApiError && caught.passes) timer = window.setTimeout(() => setRound((before) => before + 1), AGAIN_MS);
      }
    };
    hold((before) => (before.key === key ? { ...before, isReading: true } : { ...NOTHING, key, newer: 0, isReading: true, asOf: 0, error: null }));
    void first();
    return () => { ended.abort(); clearTimeout(timer); };
  }, [endpoint, key, round]);

  const shown = held.key === key ? held : { ...NOTHING, key, newer: 0, isReading: true, asOf: 0, error: null };
  return {
    ...shown,
    /** True when the page is read again by itself. */
    isFresh: shown.calls === 1 && shown.isDone,
    again: () => setRound((before) => before + 1),
    more: () => { start.current = shown; setRound((before) => before + 1); },
    stop: () => { stopped.current = true; },
  };
}
