// Keys without a modifier, which can be switched off (WCAG 2.1.4). They do nothing in fields and while a dialog is open.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

const NAME = "queue-engine.keys";
/** A second key must follow `g` within this time. */
const CHORD_MS = 1500;

export const hasKeys = signal(localStorage.getItem(NAME) !== "off");

export function setKeys(on: boolean): void {
  localStorage.setItem(NAME, on ? "on" : "off");
  hasKeys.value = on;
}

export type Keys = Record<string, () => void>;

let chord = 0;

/** Call the function of a key: `j`, `X` for Shift x, or `g t` for t after g. */
export function useKeys(keys: Keys): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (!hasKeys.value || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
      const isSecond = event.timeStamp - chord < CHORD_MS && chord > 0;
      const act = latest.current[isSecond ? `g ${event.key}` : event.key];
      if (act === undefined) return;
      event.preventDefault();
      act();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

/** Note that `g` was pressed. Called once for the page, after the keys of all views. */
export function useChords(): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const isFirst = event.key === "g" && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event.target);
      chord = isFirst ? event.timeStamp : 0;
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, []);
}

/** Move the focus to the row after or before the focused one. */
export function moveRow(step: 1 | -1): void {
  const rows = rowLinks();
  const at = rows.findIndex((one) => one.closest("tr")?.contains(document.activeElement));
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step];
  next?.focus();
}

/** Return the id of the row that has the focus. */
export function focusedRow(): string | null {
  return document.activeElement?.closest("tr[data-row]")?.getAttribute("data-row") ?? null;
}

/** The first link of each row. Where rows can be selected, those are meant and not the rows of other tables. */
function rowLinks(): HTMLElement[] {
  const rows = document.querySelector("main tr[data-row]") === null ? "main tr" : "main tr[data-row]";
  return [...document.querySelectorAll<HTMLElement>(`${rows} a`)].filter((one) => one === one.closest("tr")?.querySelector("a"));
}

function isTyping(target: EventTarget | null): boolean {
  const isField = target instanceof HTMLInputElement && target.type !== "checkbox" && target.type !== "radio";
  return isField || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}
