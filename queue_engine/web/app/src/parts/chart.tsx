// A chart of figures over time: a canvas that is summed up in words, a legend with the values at the cursor, and a table.

import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { Card, Empty } from "./common.tsx";
import type { Plot } from "./plot.ts";
import { gapsOf, type Line, RANGES, type Range, type Series, type Span, spanIn, spanQuery, summary, timesOf, valueText } from "../series.ts";
import { now, theme, zone } from "../state.ts";
import { shortTime, timeText } from "../times.ts";

/** The period in the URL, and how it is changed. Back leads to the period before. */
export function useSpan(): { span: Span; choose: (span: Span) => void } {
  const { path, query, route } = useLocation();
  return { span: spanIn(query), choose: (span) => { if (spanQuery(span) !== location.search) route(path + spanQuery(span)); } };
}

export function RangeButtons({ span, choose }: { span: Span; choose: (span: Span) => void }) {
  const isOwn = "from" in span;
  const chosen = isOwn ? null : span.range;
  return (
    <div class="row" role="group" aria-label="Range of the charts">
      {isOwn ? <span class="muted">{timeText(span.from, zone.value, now.value)} – {timeText(span.to, zone.value, now.value)}</span> : <span class="muted">Range</span>}
      {(Object.keys(RANGES) as Range[]).map((range) => <button key={range} class="btn" type="button" aria-pressed={chosen === range} onClick={() => choose({ range })}>{range.replace(/(\d+)/, "$1 ")}</button>)}
    </div>
  );
}

interface Props {
  id: string;
  title: string;
  series: Series;
  lines: Line[];
  choose: (span: Span) => void;
}

export function Chart({ id, title, series, lines, choose }: Props) {
  const [at, setAt] = useState<number | null>(null);
  const [isTable, setIsTable] = useState(false);
  const hasNone = lines.every((line) => line.values.every((value) => value === null));
  const times = timesOf(series);
  const legend = (
    <div class="legend">
      {at === null || times[at] === undefined ? null : <span class="num">{timeText(times[at]! * 1000, zone.value, now.value)}</span>}
      {lines.map((line, index) => <span key={line.word}><Swatch line={line} index={index} />{line.word}{at === null ? null : <b class="num">{valueText(line.values[at], line.unit)}</b>}</span>)}
      <button class="link" type="button" aria-pressed={isTable} onClick={() => setIsTable(!isTable)}>as a {isTable ? "chart" : "table"}<span class="vh">: {title}</span></button>
    </div>
  );
  return (
    <Card id={id} title={title} aside={legend}>
      {hasNone ? <Empty>There are no samples in this period. The leading controller takes one each 30 seconds while there are tasks, and keeps them for 48 hours after the latest one.</Empty>
        : isTable ? <FiguresTable title={title} series={series} lines={lines} />
        : <Canvas title={title} series={series} lines={lines} at={setAt} choose={choose} />}
    </Card>
  );
}

const DASHES = ["", "4 2.5", "1.5 2"];

function Swatch({ line, index }: { line: Line; index: number }) {
  return <svg viewBox="0 0 14 10" aria-hidden="true"><path class={`l-${line.tone}`} d="M0 5h14" stroke-dasharray={DASHES[index % DASHES.length]} /></svg>;
}

function Canvas({ title, series, lines, at, choose }: Omit<Props, "id"> & { at: (index: number | null) => void }) {
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef<Plot | null>(null);
  const [failed, setFailed] = useState(false);
  const latest = useRef({ series, lines, choose });
  latest.current = { series, lines, choose };
  const isDark = useDark();
  const show = () => drawn.current?.setData(timesOf(latest.current.series), latest.current.lines, gapsOf(latest.current.lines));

  useEffect(() => {
    const element = box.current!;
    let isOver = false;
    const watch = new ResizeObserver(() => drawn.current?.resize(element.clientWidth));
    const chosen = (from: number, to: number) => latest.current.choose({ from: Math.round(from * 1000), to: Math.round(to * 1000) });
    import("./plot.ts").then(({ plot }) => {
      if (isOver) return;
      drawn.current = plot(element, latest.current.lines, zone.value, latest.current.series.stepSeconds, { time: shortTime, value: valueText }, { at, chosen });
      show();
      watch.observe(element);
    }, () => setFailed(true));
    return () => {
      isOver = true;
      watch.disconnect();
      drawn.current?.destroy();
      drawn.current = null;
    };
  }, [isDark, zone.value, series.stepSeconds]);
  useEffect(show, [series]);

  if (failed) return <Empty>The chart could not be loaded. Its table has the same figures.</Empty>;
  return <div class="body"><div ref={box} class="plot" role="img" aria-label={summary(title, series, lines, zone.value, now.peek())} /></div>;
}

/** Whether the page is dark, so that the canvas is drawn again when that changes. */
function useDark(): boolean {
  const query = "(prefers-color-scheme: dark)";
  const [isDark, setIsDark] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const list = matchMedia(query);
    const note = () => setIsDark(list.matches);
    list.addEventListener("change", note);
    return () => list.removeEventListener("change", note);
  }, []);
  return theme.value === "auto" ? isDark : theme.value === "dark";
}

function FiguresTable({ title, series, lines }: { title: string; series: Series; lines: Line[] }) {
  const rows = timesOf(series).map((time, index) => ({ time, index })).reverse();
  return (
    <div class="wrap chart-table" tabIndex={0} role="region" aria-label={`${title}, as a table`}>
      <table>
        <thead><tr><th scope="col">Time</th>{lines.map((line) => <th key={line.word} scope="col" class="num">{line.word}{line.unit === "rate" ? " a minute" : ""}</th>)}</tr></thead>
        <tbody>
          {rows.map(({ time, index }) => <tr key={time}><td class="nowrap">{timeText(time * 1000, zone.value, now.peek())}</td>{lines.map((line) => <td key={line.word} class="num">{line.values[index] == null ? <span class="muted">no sample</span> : valueText(line.values[index], line.unit)}</td>)}</tr>)}
        </tbody>
      </table>
    </div>
  );
}
