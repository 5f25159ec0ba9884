// Find a text in a payload.

const MAX_PLACES = 1000;
const AROUND = 300;

/** Return the places of a text, in any case; at most 1,000. */
export function placesOf(text: string, part: string): number[] {
  if (part === "") return [];
  // The case of some letters changes the length of a text, so that the places would be wrong.
  const lower = text.toLowerCase();
  const isSame = lower.length === text.length && part.toLowerCase().length === part.length;
  const [searched, sought] = isSame ? [lower, part.toLowerCase()] : [text, part];
  const places: number[] = [];
  for (let at = searched.indexOf(sought); at >= 0 && places.length < MAX_PLACES; at = searched.indexOf(sought, at + sought.length)) places.push(at);
  return places;
}

/** Return what is before, at and after a place. */
export function around(text: string, at: number, length: number): { before: string; found: string; after: string } {
  const begin = Math.max(0, at - AROUND);
  const end = Math.min(text.length, at + length + AROUND);
  return { before: `${begin > 0 ? "…" : ""}${text.slice(begin, at)}`, found: text.slice(at, at + length), after: `${text.slice(at + length, end)}${end < text.length ? "…" : ""}` };
}
