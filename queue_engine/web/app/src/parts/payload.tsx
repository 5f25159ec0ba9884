// The input or the output of a task: a tree, the text as it is, copy and download.

import { useState } from "preact/hooks";
import { Card, CopyButton, Empty, Foreign } from "./common.tsx";
import { FindIn } from "./find-in.tsx";
import { PAYLOADS } from "../place.ts";
import { JsonTree } from "./tree.tsx";
import { sizeText } from "../times.ts";

export const NEVER = "The engine is set to keep inputs, outputs, headers and logs out of the console.";
const MAX_SHOWN_BYTES = 1024 * 1024;
const MAX_RAW_CHARACTERS = 200_000;

export function Payload({ id, title, text, empty, name }: { id: string; title: string; text: string | null; empty: string; name: string }) {
  const [isRaw, setRaw] = useState(false);
  const [isFinding, setFinding] = useState(false);
  const [isShown, setShown] = useState(PAYLOADS === "show");
  if (PAYLOADS === "never") return <Card id={id} title={title}><Empty>{NEVER}</Empty></Card>;
  if (text !== null && !isShown) return <Card id={id} title={title} aside={<span class="muted nowrap">{sizeText(text.length)}</span>}><div class="body"><button class="btn" type="button" onClick={() => setShown(true)}>Show the {title.toLowerCase()}</button></div></Card>;
  if (text === null) return <Card id={id} title={title}><Empty>{empty}</Empty></Card>;
  const isLarge = text.length > MAX_SHOWN_BYTES;
  const tools = (
    <>
      <span class="muted nowrap">{sizeText(text.length)}</span>
      {isLarge ? null : <CopyButton text={() => text}>Copy</CopyButton>}
      {isLarge ? null : <button class="btn" type="button" aria-pressed={isFinding} onClick={() => setFinding(!isFinding)}>Find</button>}
      {isLarge ? null : <button class="btn" type="button" aria-pressed={isRaw} onClick={() => setRaw(!isRaw)}>Raw</button>}
      <button class="btn" type="button" onClick={() => download(text, name)}>Download</button>
    </>
  );
  return (
    <Card id={id} title={title} aside={tools}>
      <div class="body">
        {isFinding && !isLarge ? <FindIn text={text} title={title} /> : null}
        {isLarge ? <span class="muted">Too large to be shown here. Download it.</span> : isRaw ? <pre><Foreign text={text} limit={MAX_RAW_CHARACTERS} /></pre> : <JsonTree text={text} />}
      </div>
    </Card>
  );
}

function download(text: string, name: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
