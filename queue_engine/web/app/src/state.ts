// What all views share: who is logged in, the store's clock, the zone of times, and the theme.

import { computed, signal } from "@preact/signals";
import type { Me } from "./api.ts";
import { forgetDrafts } from "./drafts.ts";
import { type Zone, zoneIn } from "./times.ts";

export const me = signal<Me | null>(null);

/** How far the store's clock is ahead of the browser's, which may be wrong by minutes. */
const ahead = signal(0);
/** The browser's time, renewed each second while a page that counts is shown. */
export const tick = signal(Date.now());
export const now = computed(() => tick.value + ahead.value);

/** Keep who has logged in. What another key has typed is forgotten: it may be secret, and this key may have fewer rights. */
export function keepMe(found: Me): void {
  if (found.keyId !== me.value?.keyId) forgetDrafts();
  me.value = found;
  ahead.value = found.time - Date.now();
}

/** Forget the person who logs out, and all that was typed. */
export function forgetMe(): void {
  me.value = null;
  forgetDrafts();
}

export function can(right: string): boolean {
  return me.value?.rights.some((one) => one === right) ?? false;
}

/** Roles by the right that they first give, for the words of a button that is off. */
const ROLE_FOR: Record<string, string> = { submit: "submit", cancel: "submit", operate: "operate", manage: "admin", manage_tenant: "admin" };

export function neededRole(right: string): string {
  return ROLE_FOR[right] ?? "another role";
}

/** The zone of times: that of the address, so that a link shows the same, or the one that was chosen last. */
export const zone = signal<Zone>(zoneIn(new URLSearchParams(location.search).get("zone") ?? localStorage.getItem("queue-engine.zone")));
export const theme = signal<string>(localStorage.getItem("queue-engine.theme") ?? "auto");

/** True while the person has stopped the views from being read again. */
export const isPaused = signal(false);

export function setZone(value: Zone): void {
  localStorage.setItem("queue-engine.zone", value);
  zone.value = value;
}

export function setTheme(value: string): void {
  localStorage.setItem("queue-engine.theme", value);
  theme.value = value;
  if (value === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = value;
}
