// Text of others, made fit to be read. It never becomes markup: it is shown as text only.

const MARKS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** Show control characters and marks that turn the direction of text, which could make a text read as another one. */
export function visible(text: string): string {
  return text.replace(MARKS, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Return at most `limit` characters, and how many are left out. */
export function shortened(text: string, limit: number): { text: string; more: number } {
  return text.length <= limit ? { text, more: 0 } : { text: text.slice(0, limit), more: text.length - limit };
}
