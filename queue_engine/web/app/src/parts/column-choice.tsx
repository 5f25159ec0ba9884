// The choice of the columns of the list of tasks.

import { useRef } from "preact/hooks";
import { ALL, type Column, COLUMNS, toggled, USUAL } from "../columns.ts";

export function ColumnChoice({ columns, change }: { columns: readonly Column[]; change: (columns: readonly Column[]) => void }) {
  const details = useRef<HTMLDetailsElement>(null);
  const close = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || !details.current?.open) return;
    event.stopPropagation();
    details.current.open = false;
    details.current.querySelector("summary")?.focus();
  };
  return (
    <details class="menu" ref={details} onKeyDown={close}>
      <summary class="btn">Columns</summary>
      <fieldset class="card body stack tight">
        <legend class="vh">Columns of the list</legend>
        {ALL.map((one) => <label key={one}><input type="checkbox" checked={columns.includes(one)} onChange={() => change(toggled(columns, one))} /> {COLUMNS[one]}</label>)}
        <button class="btn" type="button" onClick={() => change(USUAL)}>Usual columns</button>
      </fieldset>
    </details>
  );
}
