// The level of a log line, from the words that programs write. A line without one has none.

export type Level = "bad" | "warn" | "quiet" | null;

/** The level is at the beginning of a line, behind a time and a name at most. */
const BEGINNING = 120;

const BAD = /\b(?:FATAL|CRITICAL|ERROR|Error|Exception|Traceback|panic)\b|\b[A-Z]\w*Error\b|"level":\s*"(?:error|fatal|critical)"|level=(?:error|fatal)/;
const WARN = /\b(?:WARN|WARNING|Warning)\b|"level":\s*"warn(?:ing)?"|level=warn/;
const QUIET = /\b(?:DEBUG|TRACE)\b|"level":\s*"(?:debug|trace)"|level=debug/;

export function levelOf(line: string): Level {
  const text = line.slice(0, BEGINNING);
  if (BAD.test(text)) return "bad";
  if (WARN.test(text)) return "warn";
  return QUIET.test(text) ? "quiet" : null;
}
