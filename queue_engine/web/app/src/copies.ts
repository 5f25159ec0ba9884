// The request that submits a copy of a task. An input stays the text that it is, so that its numbers keep all digits.

/** A text field with more characters makes the page slow, above all in one line. */
export const MAX_EDITED = 100_000;

/** Return the body of the request. Without an input, the server copies the original's. */
export function copyBody(taskId: string, input: string | null, sendsResult: boolean): string {
  const members = [`"taskId":${JSON.stringify(taskId)}`];
  if (!sendsResult) members.push('"webhook":null');
  if (input !== null) members.push(`"input":${input}`);
  return `{${members.join(",")}}`;
}

/** Return what is wrong with the text of an input; null if it is JSON. */
export function faultOf(text: string): string | null {
  if (text.trim() === "") return "There is no text.";
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
