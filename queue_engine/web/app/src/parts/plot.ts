// The canvas of a chart, by uPlot. It is a part of its own, which is loaded with the first chart. It imports no code of the
// console, because each set of parts that share code would become one more file of the first load.

import uPlot from "uplot";
import type { Gap, Line, valueText } from "../series.ts";
import type { shortTime, Zone } from "../times.ts";

export interface Plot {
  setData: (times: number[], lines: readonly Line[], gaps: readonly Gap[]) => void;
  resize: (width: number) => void;
  destroy: () => void;
}

export interface Events {
  /** The place of the cursor; null when it is outside. */
  at: (index: number | null) => void;
  /** A period was drawn over, in epoch seconds. */
  chosen: (from: number, to: number) => void;
}

/** How times and values are written at the axes. */
export interface Texts {
  time: typeof shortTime;
  value: typeof valueText;
}

export const HEIGHT = 150;
const DASHES = [[], [6, 4], [2, 3]];
const GROUP = "page";

/** Draw lines over time. The cursors of all charts of the page move together, and a period is chosen in one of them. Lines differ by their dashes too, so that a colour does not have to do alone. */
export function plot(element: HTMLElement, lines: readonly Line[], zone: Zone, stepSeconds: number, texts: Texts, events: Events): Plot {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
  let gaps: readonly Gap[] = [];
  const axis = { stroke: colour("muted"), font: `12px ${style.getPropertyValue("--sans")}`, ticks: { show: false }, grid: { stroke: colour("line"), width: 1 } };
  const shade = (u: uPlot) => {
    const times = u.data[0];
    u.ctx.save();
    u.ctx.fillStyle = colour("sunken");
    for (const gap of gaps) {
      const from = u.valToPos(Math.max(times[gap.first]! - stepSeconds / 2, u.scales["x"]!.min!), "x", true);
      const to = u.valToPos(Math.min(times[gap.last]! + stepSeconds / 2, u.scales["x"]!.max!), "x", true);
      u.ctx.fillRect(from, u.bbox.top, to - from, u.bbox.height);
    }
    u.ctx.restore();
  };
  const select = (u: uPlot) => {
    const { left, width } = u.select;
    if (width < 2) return;
    const [from, to] = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    events.chosen(from, to);
  };
  const made = new uPlot({
    width: Math.max(element.clientWidth, 100),
    height: HEIGHT,
    padding: [8, 12, 0, 0],
    legend: { show: false },
    tzDate: (seconds) => (zone === "local" ? new Date(seconds * 1000) : uPlot.tzDate(new Date(seconds * 1000), zone === "UTC" ? "Etc/UTC" : zone)),
    scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.05)] } },
    cursor: { sync: { key: GROUP, setSeries: false, filters: { pub: (type: string) => type !== "mousedown" && type !== "mouseup" } }, drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
    axes: [
      { ...axis, size: 26, space: 70, values: (_, splits) => splits.map((at) => texts.time(at * 1000, zone, splits)) },
      { ...axis, size: 56, space: 30, values: (_, splits) => splits.map((value) => texts.value(value, lines[0]?.unit ?? "count")) },
    ],
    series: [{}, ...lines.map((line, index) => ({
      label: line.word,
      stroke: colour(line.tone),
      width: 1.5,
      dash: DASHES[index % DASHES.length]!,
      spanGaps: false,
      points: { show: true, size: 4, fill: colour(line.tone), filter: alone },
    }))],
    hooks: { drawClear: [shade], setSelect: [select], setCursor: [(u) => events.at(u.cursor.idx ?? null)] },
  }, [[], ...lines.map(() => [])] as uPlot.AlignedData, element);
  return {
    setData: (times, shown, found) => {
      gaps = found;
      made.setData([times, ...shown.map((line) => line.values)] as uPlot.AlignedData);
    },
    resize: (width) => made.setSize({ width: Math.max(width, 100), height: HEIGHT }),
    destroy: () => made.destroy(),
  };
}

/** The indexes of values between two gaps, which no line shows. */
function alone(u: uPlot, series: number): number[] {
  const values = u.data[series] as (number | null)[];
  return values.flatMap((value, index) => (value !== null && values[index - 1] == null && values[index + 1] == null ? [index] : []));
}
