// JSON as a tree: three levels are open at first, members are read a hundred at a time, and a string may be cut.

import { useMemo, useState } from "preact/hooks";
import { Foreign } from "./common.tsx";
import { countOf, endOf, kindAt, type Member, membersOf, stringAt } from "../scan.ts";

const OPEN_LEVELS = 3;
const PAGE = 100;
const MAX_OPEN_AT_FIRST = 50;
const SHOWN_CHARACTERS = 500;
const COLOURS = { string: "v", number: "d", boolean: "d", null: "d" } as const;

export function JsonTree({ text, open = false }: { text: string; open?: boolean }) {
  const start = useMemo(() => text.search(/\S/), [text]);
  if (start < 0) return <span class="muted">nothing</span>;
  return <ul class="tree"><Node text={text} member={{ name: null, start, end: endOf(text, start) }} level={0} open={open} /></ul>;
}

function Node({ text, member, level, open }: { text: string; member: Member; level: number; open: boolean }) {
  const kind = kindAt(text, member.start);
  const label = member.name === null ? null : <><span class="k"><Foreign text={`"${member.name}"`} limit={200} /></span>: </>;
  if (kind !== "object" && kind !== "array") return <li>{label}<Scalar text={text} member={member} kind={kind} /></li>;
  return <Branch text={text} member={member} level={level} open={open} label={label} />;
}

function Branch({ text, member, level, open, label }: { text: string; member: Member; level: number; open: boolean; label: preact.ComponentChild }) {
  const count = useMemo(() => countOf(text, member.start), [text, member.start]);
  const [isOpen, setOpen] = useState(count > 0 && (open || level < OPEN_LEVELS) && count <= MAX_OPEN_AT_FIRST);
  const [limit, setLimit] = useState(PAGE);
  const shown = useMemo(() => (isOpen ? membersOf(text, member.start, limit) : null), [text, member.start, isOpen, limit]);
  const [first, last] = text[member.start] === "{" ? ["{", "}"] : ["[", "]"];
  if (count === 0) return <li>{label}{first}{last}</li>;
  return (
    <li>
      {label}{first}
      <button type="button" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>{isOpen ? "−" : `… ${count}`}<span class="vh">{isOpen ? " close" : " members, open"}</span></button>
      {shown === null ? null : (
        <ul>
          {shown.list.map((one) => <Node key={one.start} text={text} member={one} level={level + 1} open={false} />)}
          {shown.next === null ? null : <li><button type="button" onClick={() => setLimit(limit + PAGE)}>show {Math.min(PAGE, count - limit)} more of {count - limit}</button></li>}
        </ul>
      )}
      {last}
    </li>
  );
}

function Scalar({ text, member, kind }: { text: string; member: Member; kind: "string" | "number" | "boolean" | "null" }) {
  const [limit, setLimit] = useState(SHOWN_CHARACTERS);
  // One character more than is shown: whether there is more must be known, and a text of a megabyte not be read.
  const raw = text.slice(member.start, Math.min(member.end, member.start + limit * 6 + 2));
  const isWhole = raw.length === member.end - member.start;
  const value = kind === "string" ? stringAt(raw, 0, isWhole ? raw.length : raw.length + 1) : raw;
  const length = member.end - member.start;
  return (
    <span class={COLOURS[kind]}>
      {kind === "string" ? '"' : ""}<Foreign text={value.slice(0, limit)} limit={limit} />{kind === "string" ? '"' : ""}
      {value.length > limit || !isWhole ? <> <button type="button" onClick={() => setLimit(Math.min(limit * 20, 200_000))} disabled={limit >= 200_000}>{limit >= 200_000 ? "the rest only as a download" : `show more of ${length} characters`}</button></> : null}
    </span>
  );
}
