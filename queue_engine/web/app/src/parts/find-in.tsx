// A field that finds a text in a payload, and shows one place after the other.

import { useMemo, useState } from "preact/hooks";
import { around, placesOf } from "../find.ts";
import { Foreign } from "./common.tsx";
import { countText } from "../times.ts";

const MAX_CHARACTERS = 200;

export function FindIn({ text, title }: { text: string; title: string }) {
  const [part, setPart] = useState("");
  const [index, setIndex] = useState(0);
  const places = useMemo(() => placesOf(text, part), [text, part]);
  const step = (by: number) => { if (places.length > 0) setIndex((index + by + places.length) % places.length); };
  const type = (event: Event) => { setPart((event.currentTarget as HTMLInputElement).value); setIndex(0); };
  const submit = (event: Event) => { event.preventDefault(); step(1); };
  const press = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || !event.shiftKey) return;
    event.preventDefault();
    step(-1);
  };
  const at = places[Math.min(index, places.length - 1)];
  const shown = at === undefined ? null : around(text, at, part.length);
  return (
    <form class="stack tight" onSubmit={submit}>
      <div class="row">
        <input class="field narrow" type="search" autocomplete="off" spellcheck={false} autofocus maxLength={MAX_CHARACTERS} aria-label={`Find in the ${title.toLowerCase()}`} value={part} onInput={type} onKeyDown={press} />
        <button class="btn" type="button" aria-disabled={places.length < 2} onClick={() => step(-1)}>Before</button>
        <button class="btn" type="submit" aria-disabled={places.length < 2}>Next</button>
        <span class="muted" role="status">{part === "" ? "" : places.length === 0 ? "not found" : `${countText(index + 1)} of ${countText(places.length)}${places.length === 1000 ? " or more" : ""}`}</span>
      </div>
      {shown === null ? null : <pre><Foreign text={shown.before} /><mark><Foreign text={shown.found} /></mark><Foreign text={shown.after} /></pre>}
    </form>
  );
}
