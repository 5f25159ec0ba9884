// The input or the output of a task: a tree, the text as it is, copy and download. Of a long one there is the beginning.

import { useState } from "preact/hooks";
import { getFile } from "../api.ts";
import { Card, CopyButton, Empty, Foreign, useActions } from "./common.tsx";
import { FindIn } from "./find-in.tsx";
import { PAYLOADS } from "../place.ts";
import { JsonTree } from "./tree.tsx";
import { sizeText } from "../times.ts";

export const NEVER = "The engine is set to keep inputs, outputs, headers and logs out of the console.";
const MAX_SHOWN_BYTES = 1024 * 1024;
const MAX_RAW_CHARACTERS = 200_000;
const MAX_BEGINNING_CHARACTERS = 2048;

interface Shown {
  id: "input" | "output";
  title: string;
  text: string | null;
  isCut: boolean;
  /** Length of all of it. */
  bytes: number;
  empty: string;
  /** Path of the task, under which the file is. */
  path: string[];
}

export function Payload({ id, title, text, isCut, bytes, empty, path }: Shown) {
  const { run, error } = useActions(() => undefined);
  const [isRaw, setRaw] = useState(false);
  const [isFinding, setFinding] = useState(false);
  const [isShown, setShown] = useState(PAYLOADS === "show");
  if (PAYLOADS === "never") return <Card id={id} title={title}><Empty>{NEVER}</Empty></Card>;
  if (text !== null && !isShown) return <Card id={id} title={title} aside={<span class="muted nowrap">{sizeText(bytes)}</span>}><div class="body"><button class="btn" type="button" onClick={() => setShown(true)}>Show the {title.toLowerCase()}</button></div></Card>;
  if (text === null) return <Card id={id} title={title}><Empty>{empty}</Empty></Card>;
  const isLarge = isCut || text.length > MAX_SHOWN_BYTES;
  const tools = (
    <>
      <span class="muted nowrap">{sizeText(bytes)}</span>
      {isLarge ? null : <CopyButton text={() => text}>Copy</CopyButton>}
      {isLarge ? null : <button class="btn" type="button" aria-pressed={isFinding} onClick={() => setFinding(!isFinding)}>Find</button>}
      {isLarge ? null : <button class="btn" type="button" aria-pressed={isRaw} onClick={() => setRaw(!isRaw)}>Raw</button>}
      <button class="btn nowrap" type="button" onClick={() => void run(() => download([...path, id]))()}>Download {id}</button>
    </>
  );
  return (
    <Card id={id} title={title} aside={tools}>
      <div class="body">
        {error}
        {isFinding && !isLarge ? <FindIn text={text} title={title} /> : null}
        {isLarge ? <Beginning text={text.slice(0, MAX_BEGINNING_CHARACTERS)} /> : isRaw ? <pre><Foreign text={text} limit={MAX_RAW_CHARACTERS} /></pre> : <JsonTree text={text} />}
      </div>
    </Card>
  );
}

function Beginning({ text }: { text: string }) {
  return (
    <>
      <p class="muted">Too large to be shown here. This is its beginning; download it for the rest.</p>
      <pre><Foreign text={text} limit={MAX_BEGINNING_CHARACTERS} />…</pre>
    </>
  );
}

async function download(path: string[]): Promise<void> {
  const { blob, name } = await getFile(path);
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
