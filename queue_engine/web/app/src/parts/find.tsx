// Find an endpoint by its name, a task by its id over all endpoints, a worker by its id or a view by its name, and do something
// with what is found.

import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, type Schemas, send } from "../api.ts";
import { type Command, commandIn, placesFor, VERBS } from "../commands.ts";
import { Action, Foreign } from "./common.tsx";
import { viewUrl } from "../place.ts";
import { can } from "../state.ts";

interface Found {
  url: string;
  word: string;
  where: string;
  /** What can be done with it, as the text says; undefined to open it. */
  order?: { verb: Command["verb"]; path: string[] };
}

interface Result {
  list: Found[];
  note: string;
}

export function Find() {
  const field = useRef<HTMLInputElement>(null);
  const box = useRef<HTMLDivElement>(null);
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
  // One more Enter does what was typed. It is not done at once, because a part of a name may have found another endpoint.
  useEffect(() => { if (found?.[0]?.order !== undefined) box.current?.querySelector("button")?.focus(); }, [found]);
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
    setFound(null);
    setTold("Looking …");
    try {
      const { list, note } = await find(text);
      if (list.length === 1 && note === "" && list[0]!.order === undefined) return go(list[0]!);
      setFound(list);
      setTold(note || (list.length === 0 ? "Nothing has this name or id." : ""));
    } catch (error) {
      setTold(error instanceof Error ? error.message : String(error));
    }
  };
  const act = (one: Found, { verb, path }: NonNullable<Found["order"]>) => async () => {
    try {
      await send("POST", [...path, verb]);
      setTold(`${one.word} ${VERBS[verb].done}.`);
      setFound([{ url: one.url, word: one.word, where: one.where }]);
      field.current?.focus();
    } catch (error) {
      setTold(`Not done. ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  return (
    <form class="find" role="search" onSubmit={(event) => void submit(event)} onKeyDown={(event) => { if (event.key === "Escape") { close(); field.current?.focus(); } }}>
      <input ref={field} class="field" type="search" placeholder="Find, or do: cancel hello_1   Ctrl K" maxLength={255} aria-label="Find an endpoint, a task, a worker or a view, or do something: cancel hello_1, pause whisper, go to keys" />
      {found !== null || told !== "" ? (
        <div ref={box} class="card found" role="status">
          {told ? <div class="body muted"><Foreign text={told} /></div> : null}
          <ul>
            {(found ?? []).map((one) => (
              <li key={`${one.url} ${one.order?.verb ?? ""}`} class={one.order === undefined ? "" : "row"}>
                {one.order === undefined ? null : <Action right={VERBS[one.order.verb].right} act={act(one, one.order)}>{capital(one.order.verb)} <Foreign text={one.word} limit={80} /></Action>}
                <a href={one.url} onClick={close}>{one.order === undefined ? <Foreign text={one.word} limit={80} /> : "Open the"} <span class="muted"><Foreign text={one.where} limit={80} /></span></a>
              </li>
            ))}
          </ul>
        </div>
      ) : null}
    </form>
  );
}

function capital(word: string): string {
  return word[0]!.toUpperCase() + word.slice(1);
}

async function find(text: string): Promise<Result> {
  const { places, isOnly } = placesFor(text);
  const views = places.filter((one) => one.right === null || can(one.right)).map((one) => ({ url: viewUrl(...one.path), word: one.word, where: "view" }));
  if (isOnly) return { list: views, note: views.length > 0 ? "" : "There is no view of this name." };
  const command = commandIn(text);
  if (command !== null) {
    const ordered = await findFor(command);
    if (ordered.list.length > 0) return ordered;
  }
  const [objects, workers] = await Promise.all([findObjects(text), findWorkers(text)]);
  const list = [...objects.tasks, ...objects.endpoints, ...workers, ...views];
  const nothing = command === null || list.length > 0 ? "" : `There is nothing to ${command.verb}: no ${VERBS[command.verb].of} has this name or id.`;
  return { list, note: objects.note || nothing };
}

async function findFor({ verb, text }: Command): Promise<Result> {
  const { tasks, endpoints, note } = await findObjects(text);
  const found = VERBS[verb].of === "task" ? tasks : endpoints;
  return { list: found.map((one) => ({ ...one, order: { verb, path: one.path } })), note };
}

async function findObjects(text: string) {
  const found = await get<Schemas["FoundView"]>(["search"], { q: text });
  const tasks = found.tasks.map((one) => ({ url: viewUrl("tasks", one.endpointId, one.taskId), word: one.taskId, where: `task of ${one.endpointName}`, path: ["serverless", String(one.endpointId), "tasks", one.taskId] }));
  const endpoints = found.endpoints.map((one) => ({ url: viewUrl("endpoints", one.id), word: one.name, where: `endpoint ${one.id}`, path: ["serverless", String(one.id)] }));
  const note = found.complete ? "" : `More may be found: the task was looked for in the newest ${found.searched} endpoints, and 50 results are shown.`;
  return { tasks, endpoints, note };
}

const MAX_WORKERS_SHOWN = 20;

/** Find workers by the begin of their ids. Those that the engine starts begin with the id of their endpoint. */
async function findWorkers(text: string): Promise<Found[]> {
  if (!can("view")) return [];
  const endpoint = /^([1-9][0-9]{0,15})-/.exec(text)?.[1];
  if (endpoint === undefined && !/^[A-Za-z0-9][A-Za-z0-9._-]{2,}$/.test(text)) return [];
  const workers = endpoint === undefined ? (await get<Schemas["WorkersPageView"]>(["workers"], { pageSize: 200 })).items.map((one) => ({ ...one, of: one.endpointId }))
    : (await unlessGone(get<Schemas["WorkerView"][]>(["serverless", endpoint, "workers"]))).map((one) => ({ ...one, of: endpoint }));
  return workers.filter((one) => one.workerId.toLowerCase().startsWith(text.toLowerCase())).slice(0, MAX_WORKERS_SHOWN)
    .map((one) => ({ url: viewUrl("workers", one.of, one.workerId), word: one.workerId, where: `worker, ${one.status}` }));
}

async function unlessGone<T>(found: Promise<T[]>): Promise<T[]> {
  return found.catch((error: unknown) => {
    if (error instanceof ApiError && error.status === 404) return [];
    throw error;
  });
}
