// What the field at the top understands besides names and ids: "cancel hello_1", "pause whisper", "go to keys".

export interface Verb {
  of: "task" | "endpoint";
  right: string;
  done: string;
}

export const VERBS = {
  cancel: { of: "task", right: "cancel", done: "is being cancelled" },
  retry: { of: "task", right: "operate", done: "runs again" },
  pause: { of: "endpoint", right: "operate", done: "begins no further task" },
  resume: { of: "endpoint", right: "operate", done: "begins tasks again" },
  start: { of: "endpoint", right: "operate", done: "is started" },
  stop: { of: "endpoint", right: "operate", done: "is stopped" },
} as const satisfies Record<string, Verb>;

export interface Command {
  verb: keyof typeof VERBS;
  /** What it is about: the id of a task, or the id or a part of the name of an endpoint. */
  text: string;
}

/** Return the command in a text, and null for a text that is only searched. */
export function commandIn(text: string): Command | null {
  const found = /^\s*([a-z]+)\s+(\S.*?)\s*$/is.exec(text);
  const verb = found?.[1]!.toLowerCase() ?? "";
  return found !== null && Object.hasOwn(VERBS, verb) ? { verb: verb as keyof typeof VERBS, text: found[2]! } : null;
}

export interface Place {
  word: string;
  /** The path below the console. */
  path: string[];
  /** The right without which the view shows nothing; null for every key. */
  right: string | null;
}

export const PLACES: readonly Place[] = [
  { word: "overview", path: [], right: null },
  { word: "endpoints", path: ["endpoints"], right: null },
  { word: "new endpoint", path: ["endpoints", "new"], right: "manage_tenant" },
  { word: "workers", path: ["workers"], right: null },
  { word: "tasks", path: ["tasks"], right: null },
  { word: "deliveries", path: ["deliveries"], right: null },
  { word: "bulk operations", path: ["bulk"], right: null },
  { word: "first task", path: ["start"], right: "manage_tenant" },
  { word: "api keys", path: ["keys"], right: "manage" },
  { word: "credentials", path: ["credentials"], right: "view_tenant" },
  { word: "audit log", path: ["audit"], right: "manage_tenant" },
  { word: "system", path: ["system"], right: null },
];

/** Return the views that a text names: "go to keys" those with this word, and "keys" alone too. */
export function placesFor(text: string): { places: Place[]; isOnly: boolean } {
  const found = /^\s*(go\s+to\s+)?(\S.*?)\s*$/is.exec(text);
  const word = found?.[2]!.toLowerCase().replace(/\s+/g, " ") ?? "";
  if (word.length < 3) return { places: [], isOnly: false };
  const exact = PLACES.filter((one) => one.word === word);
  const places = exact.length > 0 ? exact : PLACES.filter((one) => one.word.split(" ").some((part) => part.startsWith(word)) || one.word.startsWith(word));
  return { places, isOnly: found?.[1] !== undefined };
}
