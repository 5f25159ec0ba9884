// Times, lengths and sizes as the console writes them. A zone of "local" is the browser's.

export type Zone = "UTC" | "local";

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
  const name = zone === "UTC" ? " UTC" : "";
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
  const date = new Date(ms);
  if (zone === "UTC") return `${date.getUTCFullYear()}-${padded(date.getUTCMonth() + 1)}-${padded(date.getUTCDate())}`;
  return `${date.getFullYear()}-${padded(date.getMonth() + 1)}-${padded(date.getDate())}`;
}

function clock(ms: number, zone: Zone): string {
  const date = new Date(ms);
  const parts = zone === "UTC"
    ? [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getHours(), date.getMinutes(), date.getSeconds()];
  return parts.map(padded).join(":");
}

function padded(value: number): string {
  return String(value).padStart(2, "0");
}
