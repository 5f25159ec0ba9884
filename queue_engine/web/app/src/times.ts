// Times, lengths and sizes as the console writes them.

/** "UTC", "local" for the zone of the browser, or the name of another one, such as "Asia/Kolkata". */
export type Zone = string;

/** Return the zone with this name: UTC if the browser knows none. */
export function zoneIn(text: string | null): Zone {
  if (text === null || text === "local") return text ?? "UTC";
  try {
    new Intl.DateTimeFormat("en", { timeZone: text });
    return text;
  } catch {
    return "UTC";
  }
}

/** `1.2 s`, `2 m 41 s`, `3 h 05 m`, `2 d 4 h`. */
export function lengthText(ms: number): string {
  const value = Math.max(0, ms);
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 59_950) return `${(value / 1000).toFixed(1)} s`;
  const seconds = Math.round(value / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${padded(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${padded(minutes % 60)} m`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** `14:41:58`, with the date when it is not the day of `now`. */
export function timeText(ms: number, zone: Zone, now: number): string {
  const time = clock(ms, zone);
  return day(ms, zone) === day(now, zone) ? time : `${day(ms, zone)} ${time}`;
}

/** The time to the millisecond, for a hover. */
export function fullText(ms: number, zone: Zone, now: number): string {
  const name = zone === "local" ? "" : ` ${zone}`;
  return `${day(ms, zone)} ${clock(ms, zone)}.${String(Math.floor(ms) % 1000).padStart(3, "0")}${name}, ${agoText(now - ms)}`;
}

/** `20 m 00 s ago`, `in 48.0 s`, `now`. */
export function agoText(ms: number): string {
  if (Math.abs(ms) < 1000) return "now";
  return ms > 0 ? `${lengthText(ms)} ago` : `in ${lengthText(-ms)}`;
}

/** `412 B`, `18.4 kB`, `1.2 MB`, `12.6 GB`. */
export function sizeText(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 999_950) return `${(bytes / 1000).toFixed(1)} kB`;
  if (bytes < 999_950_000) return `${(bytes / 1_000_000).toFixed(1)} MB`;
  return `${(bytes / 1_000_000_000).toFixed(1)} GB`;
}

/** `24,118`. */
export function countText(count: number): string {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** A time on an axis: `14:41`, with seconds or the date where the others need them. All are in epoch seconds. */
export function shortTime(ms: number, zone: Zone, all: readonly number[]): string {
  const step = ((all[1] ?? 0) - (all[0] ?? 0)) * 1000;
  const time = clock(ms, zone);
  if (step > 0 && step < 60_000) return time;
  if (step < 86_400_000 && time !== "00:00:00") return time.slice(0, 5);
  return day(ms, zone).slice(5);
}

function day(ms: number, zone: Zone): string {
  const [year, month, date] = partsOf(ms, zone);
  return `${year}-${padded(month)}-${padded(date)}`;
}

function clock(ms: number, zone: Zone): string {
  return partsOf(ms, zone).slice(3).map(padded).join(":");
}

type Parts = readonly [year: number, month: number, day: number, hour: number, minute: number, second: number];

function partsOf(ms: number, zone: Zone): Parts {
  const date = new Date(ms);
  if (zone === "UTC") return [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
  if (zone === "local") return [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()];
  return namedPartsOf(ms, zone);
}

const formats = new Map<Zone, Intl.DateTimeFormat>();

function namedPartsOf(ms: number, zone: Zone): Parts {
  let format = formats.get(zone);
  if (format === undefined) {
    format = new Intl.DateTimeFormat("en-US", { timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric" });
    formats.set(zone, format);
  }
  const found = new Map(format.formatToParts(ms).map((part) => [part.type, Number(part.value)]));
  const part = (name: Intl.DateTimeFormatPartTypes) => found.get(name) ?? 0;
  return [part("year"), part("month"), part("day"), part("hour"), part("minute"), part("second")];
}

/** Return the time at which a clock of the zone shows the time that a clock in UTC shows at `ms`. A time that the clock
 * jumps over, or shows twice, is one of those beside the jump. */
export function inZone(ms: number, zone: Zone): number {
  const shown = (at: number) => Date.parse(`${day(at, zone)}T${clock(at, zone)}Z`) + (((at % 1000) + 1000) % 1000);
  const first = ms - (shown(ms) - ms);
  return first + (ms - shown(first));
}

function padded(value: number): string {
  return String(value).padStart(2, "0");
}
