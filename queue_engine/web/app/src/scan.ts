// Look into JSON text without parsing it: a value is found by its place, and members are read when they are shown.
//
// A task's input may have 100,000 members, a depth of 10,000, or a number such as 18446744073709551615. So nothing here
// recurses, nothing becomes a JavaScript number, and the cost follows what is shown.

export type Kind = "object" | "array" | "string" | "number" | "boolean" | "null";

export interface Member {
  /** The name in an object; null in an array. */
  name: string | null;
  start: number;
  end: number;
}

export interface Members {
  list: Member[];
  /** Where the next member begins; null when there is none. */
  next: number | null;
}

const SPACE = /[ \t\n\r]*/y;
const SCALAR = /[^\s,\]}]*/y;
const PLAIN = /[^"\\]*/y;
const STRUCTURE = /["[\]{}]/g;

export function kindAt(text: string, start: number): Kind {
  const first = text[start];
  if (first === "{") return "object";
  if (first === "[") return "array";
  if (first === '"') return "string";
  if (first === "t" || first === "f") return "boolean";
  return first === "n" ? "null" : "number";
}

/** Return where the value ends that starts at `start`. */
export function endOf(text: string, start: number): number {
  const first = text[start];
  if (first === '"') return endOfString(text, start);
  if (first !== "{" && first !== "[") return match(SCALAR, text, start);
  let depth = 0;
  STRUCTURE.lastIndex = start;
  for (let found = STRUCTURE.exec(text); found !== null; found = STRUCTURE.exec(text)) {
    const mark = found[0];
    if (mark === '"') STRUCTURE.lastIndex = endOfString(text, found.index);
    else if (mark === "{" || mark === "[") depth += 1;
    else if ((depth -= 1) === 0) return found.index + 1;
  }
  return text.length;
}

/** Return at most `limit` members of the object or array at `start`, from `from` on, which is `next` of those before. */
export function membersOf(text: string, start: number, limit: number, from?: number): Members {
  const isObject = text[start] === "{";
  const list: Member[] = [];
  let at = from ?? skipSpace(text, start + 1);
  while (at < text.length && text[at] !== "}" && text[at] !== "]") {
    if (list.length === limit) return { list, next: at };
    const before = at;
    let name: string | null = null;
    if (isObject) {
      const end = endOfString(text, at);
      name = stringAt(text, at, end);
      at = skipSpace(text, skipSpace(text, end) + 1);
    }
    const end = endOf(text, at);
    list.push({ name, start: at, end });
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
    if (at <= before) break;
  }
  return { list, next: null };
}

/** Return the number of members, without looking into them more than needed to pass them. */
export function countOf(text: string, start: number): number {
  let count = 0;
  let from: number | undefined;
  for (;;) {
    const { list, next } = membersOf(text, start, 1000, from);
    count += list.length;
    if (next === null) return count;
    from = next;
  }
}

/** Return the string at a place as it reads; its text as it stands when it is not valid. */
export function stringAt(text: string, start: number, end: number): string {
  try {
    return JSON.parse(text.slice(start, end)) as string;
  } catch {
    return text.slice(start + 1, end - 1);
  }
}

/** Split the object in `text`: members in `raw` stay text, the others are parsed. */
export function split(text: string, raw: readonly string[]): { values: Record<string, unknown>; texts: Record<string, string> } {
  const values: Record<string, unknown> = {};
  const texts: Record<string, string> = {};
  for (const { name, start, end } of membersOf(text, skipSpace(text, 0), Number.MAX_SAFE_INTEGER).list) {
    if (name === null) continue;
    if (raw.includes(name)) texts[name] = text.slice(start, end);
    else values[name] = JSON.parse(text.slice(start, end));
  }
  return { values, texts };
}

function skipSpace(text: string, at: number): number {
  return match(SPACE, text, at);
}

function endOfString(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length) {
    at = match(PLAIN, text, at);
    if (text[at] === '"') return at + 1;
    at += 2;
  }
  return text.length;
}

function match(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  pattern.test(text);
  return Math.max(at, pattern.lastIndex);
}
