// Where the console is, and how its views are named.

import { sessionHalf } from "./session.ts";

const prefix = document.querySelector('meta[name="console-prefix"]')?.getAttribute("content") ?? "";

/** The setting QUEUE_ENGINE_CONSOLE_PAYLOADS: whether inputs, outputs, headers and logs are shown. */
export const PAYLOADS = document.querySelector('meta[name="console-payloads"]')?.getAttribute("content") ?? "show";

/** The path of the console, with the prefix of a proxy. */
export const BASE = `${prefix}/console`;
/** Where programs find the API. */
export const API_ORIGIN = `${location.origin}${prefix}`;
export const SESSION_URL = `${BASE}/session`;

/** Return the address of an operation, from the parts of its path. */
export function apiUrl(parts: readonly (string | number)[], query: Record<string, string | number | undefined> = {}): string {
  return `${BASE}/api/${parts.map((part) => encodeURIComponent(part)).join("/")}${queryText(query, (value) => value !== undefined)}`;
}

/** Return the query of a view's address, without what is empty. */
export function givenQuery(query: Record<string, string | undefined>): string {
  return queryText(query, (value) => value !== undefined && value !== "");
}

function queryText(query: Record<string, string | number | undefined>, isGiven: (value: string | number | undefined) => boolean): string {
  const given = Object.entries(query).filter(([, value]) => isGiven(value)).map(([name, value]) => [name, String(value)]);
  const text = new URLSearchParams(given as [string, string][]).toString();
  return text ? `?${text}` : "";
}

/** Return the address of a view. */
export function viewUrl(...parts: (string | number)[]): string {
  return [BASE, ...parts.map((part) => encodeURIComponent(part))].join("/");
}

/** Return the address of what is shown, with the zone of its times. */
export function linkOf(zone: string): string {
  const url = new URL(location.href);
  url.searchParams.set("zone", zone);
  return url.href;
}

/** Keep the zone of times in the address. UTC is what it means without one. */
export function keepZone(zone: string): void {
  const url = new URL(location.href);
  if ((url.searchParams.get("zone") ?? "UTC") === zone) return;
  if (zone === "UTC") url.searchParams.delete("zone");
  else url.searchParams.set("zone", zone);
  history.replaceState(history.state, "", url);
}

/** Return the headers that each request needs besides the cookie. */
export function sessionHeaders(): Record<string, string> {
  return { "X-Console-Session": sessionHalf() ?? "" };
}
