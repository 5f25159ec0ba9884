// Lines of a log: level colours, wrapping, and a download of what the page has.

import { useEffect, useRef, useState } from "preact/hooks";
import { Foreign } from "./common.tsx";
import { levelOf } from "../levels.ts";
import { viewUrl } from "../place.ts";
import { now, zone } from "../state.ts";
import { timeText } from "../times.ts";

/** Lines that a page keeps. Older ones are left out first. */
export const MAX_LINES = 5000;
const SHOWN_CHARACTERS = 5000;

export interface ShownLine {
  timestamp: string;
  log: string;
  offset: number;
  workerId?: string;
}

const CLASSES = { bad: "bad", warn: "warn", quiet: "muted" } as const;

export function LogLines({ lines, follows, endpoint }: { lines: ShownLine[]; follows: boolean; endpoint?: string }) {
  const box = useRef<HTMLPreElement>(null);
  const [wraps, setWraps] = useState(true);
  useEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, follows]);
  return (
    <>
      <div class="body row">
        <label><input type="checkbox" checked={wraps} onChange={() => setWraps(!wraps)} /> Wrap lines</label>
        <button class="btn" type="button" onClick={() => download(lines)}>Download these lines</button>
      </div>
      <pre class={wraps ? "log" : "log unwrapped"} tabIndex={0} ref={box} aria-label="Lines of the log">
        {lines.map((line) => <Line key={`${line.timestamp} ${line.offset} ${line.workerId ?? ""}`} line={line} endpoint={endpoint} />)}
      </pre>
    </>
  );
}

function Line({ line, endpoint }: { line: ShownLine; endpoint: string | undefined }) {
  const level = levelOf(line.log);
  return (
    <div class={level === null ? "" : CLASSES[level]}>
      <span class="t" title={line.timestamp}>{timeText(Date.parse(line.timestamp), zone.value, now.value)}</span>{" "}
      {line.workerId !== undefined && endpoint !== undefined ? <><a href={viewUrl("workers", endpoint, line.workerId)}><Foreign text={line.workerId} limit={63} /></a>{" "}</> : null}
      <Foreign text={line.log} limit={SHOWN_CHARACTERS} />
    </div>
  );
}

function download(lines: readonly ShownLine[]): void {
  const text = lines.map((line) => `${line.timestamp} ${line.workerId === undefined ? "" : `${line.workerId} `}${line.log}\n`).join("");
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = "log.txt";
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
