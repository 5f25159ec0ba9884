// Find an endpoint by its name, or a task by its id over all endpoints.

import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { get, type Schemas } from "../api.ts";
import { Foreign } from "./common.tsx";
import { viewUrl } from "../place.ts";

interface Found {
  url: string;
  word: string;
  where: string;
}

export function Find() {
  const field = useRef<HTMLInputElement>(null);
  const { route } = useLocation();
  const [found, setFound] = useState<Found[] | null>(null);
  const [told, setTold] = useState("");
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "k") {
        event.preventDefault();
        field.current?.focus();
      }
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
  const close = () => { setFound(null); setTold(""); };
  const go = (one: Found) => {
    close();
    if (field.current) field.current.value = "";
    route(one.url);
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    const text = field.current?.value.trim() ?? "";
    if (text === "") return close();
    setTold("Looking …");
    try {
      const { list, note } = await find(text);
      if (list.length === 1 && note === "") return go(list[0]!);
      setFound(list);
      setTold(note || (list.length === 0 ? "Nothing has this name or id." : ""));
    } catch (error) {
      setTold(error instanceof Error ? error.message : String(error));
    }
  };
  return (
    <form class="find" role="search" onSubmit={(event) => void submit(event)} onKeyDown={(event) => { if (event.key === "Escape") close(); }}>
      <input ref={field} class="field" type="search" placeholder="Find an endpoint or a task by its id   Ctrl K" maxLength={255} aria-label="Find an endpoint by its name or a task by its id" />
      {found !== null || told !== "" ? (
        <div class="card found" role="status">
          {told ? <div class="body muted"><Foreign text={told} /></div> : null}
          <ul>{(found ?? []).map((one) => <li key={one.url}><a href={one.url} onClick={close}><Foreign text={one.word} limit={80} /> <span class="muted"><Foreign text={one.where} limit={80} /></span></a></li>)}</ul>
        </div>
      ) : null}
    </form>
  );
}

async function find(text: string): Promise<{ list: Found[]; note: string }> {
  const found = await get<Schemas["FoundView"]>(["search"], { q: text });
  const tasks = found.tasks.map((one) => ({ url: viewUrl("tasks", one.endpointId, one.taskId), word: one.taskId, where: `task of ${one.endpointName}` }));
  const endpoints = found.endpoints.map((one) => ({ url: viewUrl("endpoints", one.id), word: one.name, where: `endpoint ${one.id}` }));
  const note = found.complete ? "" : `More may be found: the task was looked for in the newest ${found.searched} endpoints, and 50 results are shown.`;
  return { list: [...tasks, ...endpoints], note };
}
