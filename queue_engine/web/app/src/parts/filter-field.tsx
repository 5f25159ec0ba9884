// The filters of a list as tokens, and a field in which another one is typed.

import { useRef, useState } from "preact/hooks";
import { Foreign } from "./common.tsx";
import { type FilterName, type Filters, FILTERS, NAMES, shownValue, STATES, typed, without } from "../filters.ts";
import { useKeys } from "../keys.ts";
import { now, zone } from "../state.ts";

const COMPLETIONS = [
  ...STATES.map((one) => `state:${one}`),
  ...NAMES.filter((one) => FILTERS[one].kind !== "states").map((one) => `${FILTERS[one].word}:`),
];

export function FilterField({ filters, change }: { filters: Filters; change: (filters: Filters) => void }) {
  const field = useRef<HTMLInputElement>(null);
  const [fault, setFault] = useState<string | null>(null);
  const given = NAMES.filter((one) => filters[one] !== undefined);
  useKeys({ "/": () => field.current?.focus() });
  const add = (event: Event) => {
    event.preventDefault();
    const text = field.current?.value ?? "";
    if (text.trim() === "") return;
    const found = typed(text, now.value, zone.value);
    if ("fault" in found) return setFault(found.fault);
    setFault(null);
    if (field.current) field.current.value = "";
    change({ ...filters, [found.name]: found.value });
  };
  const remove = (name: FilterName) => {
    change(without(filters, name));
    field.current?.focus();
  };
  const press = (event: KeyboardEvent) => {
    const last = given.at(-1);
    if (event.key === "Backspace" && field.current?.value === "" && last !== undefined) remove(last);
  };
  return (
    <form class="filter" role="search" aria-label="Filter of tasks" onSubmit={add}>
      {given.map((name) => (
        <span class="token" key={name}>
          <Foreign text={`${FILTERS[name].word}:${shownValue(name, filters[name] ?? "", zone.value, now.value)}`} limit={60} />
          <button type="button" aria-label={`Remove the filter ${FILTERS[name].word}`} onClick={() => remove(name)}>×</button>
        </span>
      ))}
      <input
        ref={field} list="filters" autocomplete="off" spellcheck={false} maxLength={300} aria-label="Add a filter" aria-describedby={fault === null ? undefined : "filter-fault"}
        aria-invalid={fault !== null} placeholder="error:no model   state:failed   after:1h   id:call_22   /" onKeyDown={press} onInput={() => setFault(null)}
      />
      <datalist id="filters">{COMPLETIONS.map((one) => <option key={one} value={one} />)}</datalist>
      {fault === null ? null : <span class="fault" id="filter-fault" role="alert"><Foreign text={fault} limit={400} /></span>}
    </form>
  );
}
