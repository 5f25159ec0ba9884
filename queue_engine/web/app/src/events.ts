// One stream of events for the whole page, for what its views show. Without it, the views read again every few seconds.

import { effect, signal } from "@preact/signals";
import { isLoggedOut, outage } from "./api.ts";
import { apiUrl, sessionHeaders } from "./place.ts";
import { isPaused } from "./state.ts";
import { eventReader } from "./sse.ts";

/** A stream whose first byte takes longer is a proxy that holds it back. */
const FIRST_MS = 3000;
/** The API sends a comment every 15 s. */
const SILENCE_MS = 25_000;
const MAX_TRIES = 2;
/** After this time without a stream, it is tried again. */
const REST_MS = 60_000;
const GATHER_MS = 30;

/** True while events come. */
export const isLive = signal(false);

type Told = (data: unknown) => void;
const followers = new Map<string, Set<Told>>();
let opened: AbortController | null = null;
let shown = "";
let gather = 0;
let retry = 0;
let failures = 0;

/** Call `told` with each state of a topic. Return a function that ends that. */
export function follow(topic: string, told: Told): () => void {
  const all = followers.get(topic) ?? new Set();
  all.add(told);
  followers.set(topic, all);
  changed();
  return () => {
    all.delete(told);
    if (all.size === 0 && followers.get(topic) === all) followers.delete(topic);
    changed();
  };
}

function changed(): void {
  clearTimeout(gather);
  gather = window.setTimeout(arrange, GATHER_MS);
}

/** Open a stream for what is wanted now, or close it. */
function arrange(): void {
  const wanted = document.hidden || isPaused.value || isLoggedOut.value ? "" : [...followers.keys()].sort().join(",");
  if (wanted === shown) return;
  close();
  shown = wanted;
  if (wanted !== "" && failures < MAX_TRIES) void open(wanted);
}

function close(): void {
  clearTimeout(retry);
  opened?.abort();
  opened = null;
  isLive.value = false;
}

async function open(topics: string): Promise<void> {
  const mine = new AbortController();
  opened = mine;
  let timer = window.setTimeout(() => mine.abort(), FIRST_MS);
  let isGood = false;
  try {
    const response = await fetch(apiUrl(["events"], { topics }), {
      headers: sessionHeaders(), cache: "no-store", credentials: "same-origin", redirect: "error", signal: mine.signal,
    });
    if (!response.ok || response.body === null) throw new Error(`HTTP ${response.status}`);
    const read = eventReader();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      clearTimeout(timer);
      timer = window.setTimeout(() => mine.abort(), SILENCE_MS);
      isGood = true;
      failures = 0;
      isLive.value = true;
      outage.value = null;
      for (const one of read(part.value)) pass(one.event, one.data);
    }
  } catch {
    // Below: a stream that ends is opened again, whatever has ended it.
  }
  clearTimeout(timer);
  if (opened !== mine) return;
  isLive.value = false;
  opened = null;
  shown = "";
  if (!isGood) failures += 1;
  const pause = failures < MAX_TRIES ? 1000 * (failures + 1) : REST_MS;
  retry = window.setTimeout(() => { if (failures >= MAX_TRIES) failures = 0; arrange(); }, pause);
}

function pass(event: string, text: string): void {
  if (event === "hello" || event === "bye") return;
  const { topic, data } = JSON.parse(text) as { topic: string; data: unknown };
  for (const told of followers.get(topic) ?? []) told(data);
}

document.addEventListener("visibilitychange", changed);
effect(() => {
  void isPaused.value;
  void isLoggedOut.value;
  changed();
});
