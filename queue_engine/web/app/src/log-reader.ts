// A log that is read page by page, and then told by the stream of events, or read again every few seconds.

import { useEffect, useState } from "preact/hooks";
import { ApiError } from "./api.ts";
import { follow, isLive } from "./events.ts";
import { MAX_LINES } from "./parts/log-lines.tsx";
import { isPaused } from "./state.ts";

const FOLLOW_MS = 1500;

/** A page of a log. `next` is the place behind it; null when there is none, as in an empty log. */
export interface LogPart<L> {
  lines: L[];
  next: string | null;
  more: boolean;
  /** False if the log has lines of workers that are left out; without it, what was known stays. */
  complete?: boolean;
}

export interface LogSource<L> {
  /** Names what is read. Another name begins anew. */
  key: string;
  /** The topic that tells the lines that are added; null without one. */
  topic: string | null;
  /** True if lines that are added later are read too. */
  follows: boolean;
  /** True if events have all lines that are wanted. */
  takesEvents: boolean;
  /** Read the newest lines, so that a long log is not read from its beginning; null to begin at the first line. */
  newest: ((signal: AbortSignal) => Promise<LogPart<L>>) | null;
  /** Read the lines behind a place; null stands for the beginning. */
  after: (place: string | null, signal: AbortSignal) => Promise<LogPart<L>>;
  /** Return the lines of an event, and the places before and behind them. */
  told: (event: unknown) => { before: string | null; part: LogPart<L> };
}

export interface HeldLog<L> {
  lines: L[];
  /** True if the oldest lines were left out. */
  left: boolean;
  complete: boolean;
  isRead: boolean;
  error: ApiError | null;
}

/** Read a log, and what is added to it. At most MAX_LINES are held. */
export function useLog<L>(source: LogSource<L>): HeldLog<L> {
  const [held, hold] = useState<HeldLog<L>>({ lines: [], left: false, complete: true, isRead: false, error: null });
  const { key, topic, follows } = source;
  useEffect(() => (follows && topic !== null ? follow(topic, () => null) : undefined), [topic, follows]);
  const isTold = follows && topic !== null && isLive.value;
  useEffect(() => {
    const ended = new AbortController();
    let timer = 0;
    let place: string | null = null;
    let hasBegun = source.newest === null;
    let isReading = true;
    let isMissed = false;
    const add = (part: LogPart<L>) => {
      place = part.next ?? place;
      if (part.lines.length === 0 && part.complete === undefined) return;
      hold((before) => {
        const all = [...before.lines, ...part.lines];
        return { lines: all.slice(-MAX_LINES), left: before.left || all.length > MAX_LINES, complete: part.complete ?? before.complete, isRead: true, error: null };
      });
    };
    const readOn = async () => {
      for (let more = true; more && !ended.signal.aborted;) {
        const part: LogPart<L> = hasBegun || source.newest === null ? await source.after(place, ended.signal) : await source.newest(ended.signal);
        if (ended.signal.aborted) return;
        more = part.more || !hasBegun;
        hasBegun = true;
        add(part);
      }
      hold((before) => (before.isRead && before.error === null ? before : { ...before, isRead: true, error: null }));
    };
    const step = async () => {
      if (document.hidden || isPaused.value) { timer = window.setTimeout(() => void step(), FOLLOW_MS); return; }
      try {
        await readOn();
      } catch (caught) {
        if (ended.signal.aborted) return;
        const error = caught instanceof ApiError ? caught : new ApiError(-1, String(caught));
        hold((before) => ({ ...before, isRead: true, error }));
        if (error.status === 400) return;
      }
      isReading = false;
      if (isMissed) return void again();
      if (follows && !isTold) timer = window.setTimeout(() => void step(), FOLLOW_MS);
    };
    /** Read on from the newest line that is known. During a read it is noted only. */
    const again = () => {
      isMissed = isReading;
      if (isReading) return;
      isReading = true;
      void step();
    };
    // Events have the lines that were added, if no line was missed and none is left out.
    const took = (event: unknown) => {
      if (event === null || ended.signal.aborted) return;
      const { before, part } = source.told(event);
      if (!isReading && source.takesEvents && before !== null && before === place) add(part);
      else again();
    };
    const unfollow = isTold ? follow(topic, took) : null;
    hold({ lines: [], left: false, complete: true, isRead: false, error: null });
    void step();
    return () => { ended.abort(); clearTimeout(timer); unfollow?.(); };
  }, [key, follows, isTold]);
  return held;
}
