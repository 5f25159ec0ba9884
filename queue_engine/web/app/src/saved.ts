// Views of tasks that the person has named. They stay in this browser, apart for each key; a link
// shows a colleague the same.

import { type View, queryOf, viewOf } from "./filters.ts";

const NAME = "queue-engine.views";
export const MAX_VIEWS = 20;
export const MAX_NAME = 60;

export interface SavedView {
  name: string;
  /** The query of the view's URL, without a place in the list. */
  query: string;
}

/** Return the views in a stored text. What is no view is left out: another version may have written it. */
export function viewsIn(text: string | null): SavedView[] {
  try {
    const found: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(found) ? found.filter(isSaved).slice(0, MAX_VIEWS).map(({ name, query }) => ({ name, query: cleaned(query) })) : [];
  } catch {
    return [];
  }
}

function isSaved(one: unknown): one is SavedView {
  if (typeof one !== "object" || one === null) return false;
  const { name, query } = one as Partial<SavedView>;
  return typeof name === "string" && name !== "" && name.length <= MAX_NAME && typeof query === "string";
}

/** Return the query with the parts of a view only. */
function cleaned(query: string): string {
  return queryOf({ ...viewOf(Object.fromEntries(new URLSearchParams(query))), cursor: "" });
}

/** Return the views with another one first. One of the same name is replaced, and the oldest one beyond the limit goes. */
export function withView(views: SavedView[], name: string, view: View): SavedView[] {
  const saved = { name: name.trim().slice(0, MAX_NAME), query: queryOf({ ...view, cursor: "" }) };
  return [saved, ...withoutView(views, saved.name)].slice(0, MAX_VIEWS);
}

export function withoutView(views: SavedView[], name: string): SavedView[] {
  return views.filter((one) => one.name !== name);
}

export function readViews(keyId: string): SavedView[] {
  return viewsIn(localStorage.getItem(`${NAME}.${keyId}`));
}

export function keepViews(keyId: string, views: SavedView[]): void {
  if (views.length === 0) localStorage.removeItem(`${NAME}.${keyId}`);
  else localStorage.setItem(`${NAME}.${keyId}`, JSON.stringify(views));
}
