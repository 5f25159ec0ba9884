// The columns of the list of tasks that the person has chosen. They stay in this browser, apart for each key.

const NAME = "queue-engine.columns";

/** The columns besides that of the task, in their order, with their words. */
export const COLUMNS = {
  state: "State",
  created: "Created",
  started: "Started",
  finished: "Finished",
  length: "Since or ran",
  attempts: "Attempts",
  priority: "Priority",
  key: "Fairness key",
  tags: "Tags",
  delivery: "Delivery",
  webhook: "Webhook",
  error: "Why it failed",
} as const;

export type Column = keyof typeof COLUMNS;

export const ALL = Object.keys(COLUMNS) as Column[];
export const USUAL: readonly Column[] = ["state", "created", "length", "attempts", "delivery", "error"];

/** Return the columns in a stored text, in their order. What is no column is left out: another version may have written it. */
export function columnsIn(text: string | null): readonly Column[] {
  try {
    const found: unknown = JSON.parse(text ?? "null");
    return Array.isArray(found) ? ALL.filter((one) => found.includes(one)) : USUAL;
  } catch {
    return USUAL;
  }
}

/** Return the columns with one more or one less. */
export function toggled(columns: readonly Column[], one: Column): Column[] {
  return ALL.filter((other) => (other === one ? !columns.includes(one) : columns.includes(other)));
}

export function readColumns(keyId: string): readonly Column[] {
  return columnsIn(localStorage.getItem(`${NAME}.${keyId}`));
}

export function keepColumns(keyId: string, columns: readonly Column[]): void {
  if (columns.length === USUAL.length && USUAL.every((one) => columns.includes(one))) localStorage.removeItem(`${NAME}.${keyId}`);
  else localStorage.setItem(`${NAME}.${keyId}`, JSON.stringify(columns));
}
