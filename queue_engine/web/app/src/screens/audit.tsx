import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { get, type Schemas } from "../api.ts";
import { timeOf } from "../filters.ts";
import { Card, Empty, Foreign, Notice, Read, Time, Title } from "../parts/common.tsx";
import { givenQuery, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now, zone } from "../state.ts";
import { timeText } from "../times.ts";

type Page = Schemas["AuditPageView"];

const SIZE = 100;
const MAX_TEXT = 255;
const NAMES = ["key", "action", "target", "from", "to"] as const;
type Asked = Partial<Record<(typeof NAMES)[number], string>>;

/** Return the filters in the query of the view. A wrong value stays, so that the API says what is wrong with it. */
function askedIn(query: Record<string, string>): Asked {
  return Object.fromEntries(NAMES.filter((name) => query[name]).map((name) => [name, query[name]!.slice(0, MAX_TEXT)]));
}

/** Read until the page is full or the log ends: a call looks at a part of the log only. */
async function read(asked: Asked, before: string | undefined, signal: AbortSignal): Promise<Page> {
  let page = await get<Page>(["audit"], { ...asked, pageSize: SIZE, before }, signal);
  while (page.hasMore && page.items.length < SIZE && page.nextBefore !== null) {
    const next = await get<Page>(["audit"], { ...asked, pageSize: SIZE - page.items.length, before: page.nextBefore }, signal);
    page = { ...next, items: [...page.items, ...next.items], scanned: page.scanned + next.scanned };
  }
  return page;
}

export function AuditScreen() {
  const { query } = useLocation();
  const before = /^[0-9]{1,19}-[0-9]{1,19}$/.test(query["before"] ?? "") ? query["before"] : undefined;
  const asked = askedIn(query);
  const isFiltered = Object.keys(asked).length > 0;
  const shown = usePolled(`audit ${before ?? ""} ${JSON.stringify(asked)}`, before === undefined ? 5000 : 0, (signal) => read(asked, before, signal));
  return (
    <>
      <Title text="Audit log" />
      <h1>Audit log</h1>
      <AuditFilters key={JSON.stringify(asked)} asked={asked} />
      <Read from={shown} lines={8}>
        {(page) => (
          <Card id="audit" title="Changes" aside={<span class="muted">newest first; the newest 10,000 are kept, submissions are not in it</span>}>
            {page.items.length === 0 ? <Empty>There is no {before === undefined ? "change" : "older change"}{isFiltered ? " that matches" : ""}.</Empty> : (
              <div class="wrap" tabIndex={0} role="region" aria-label="Changes">
                <table>
                  <thead><tr><th scope="col">Time</th><th scope="col">Change</th><th scope="col">Of</th><th scope="col">Key</th><th scope="col">Address</th></tr></thead>
                  <tbody>
                    {page.items.map((one) => (
                      <tr key={one.id}>
                        <td><Time at={one.time} /></td>
                        <td>{one.action.replaceAll("_", " ")}{one.certain ? null : <span class="muted"> (the store went away: it may not have been made)</span>}</td>
                        <td class="mono"><Foreign text={one.target} limit={300} /></td>
                        <td>{one.keyId === null ? <span class="muted">command line on the store</span> : <><Foreign text={one.keyName} limit={80} /> <span class="muted mono">{one.keyId}</span></>}</td>
                        <td class="mono"><Foreign text={one.address ?? "–"} limit={60} /></td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            )}
            {before === undefined && !page.hasMore ? null : (
              <nav class="row pager" aria-label="Pages">
                {before === undefined ? null : <a class="btn" href={viewUrl("audit") + givenQuery(asked)}>Newest</a>}
                {page.hasMore && page.nextBefore !== null ? <a class="btn" href={viewUrl("audit") + givenQuery({ ...asked, before: page.nextBefore })}>Older</a> : null}
              </nav>
            )}
          </Card>
        )}
      </Read>
    </>
  );
}

function AuditFilters({ asked }: { asked: Asked }) {
  const { route } = useLocation();
  const [fault, setFault] = useState<string | null>(null);
  const time = (text: string | undefined) => (text !== undefined && /^[0-9]{12,15}$/.test(text) ? timeText(Number(text), zone.value, 0) : text);
  const submit = (event: Event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const typed = (name: string) => ((form.get(name) as string | null) ?? "").trim();
    const at = (name: string) => (typed(name) === "" ? "" : String(timeOf(typed(name), now.peek(), zone.peek()) ?? ""));
    const wrong = ["from", "to"].find((name) => typed(name) !== "" && at(name) === "");
    if (wrong !== undefined) return setFault(`A time is needed in "${wrong === "from" ? "Since" : "Until"}": 15m, 1h or 2d ago, or 2026-01-31T12:00`);
    route(viewUrl("audit") + givenQuery({ key: typed("key"), action: typed("action").replaceAll(" ", "_"), target: typed("target"), from: at("from"), to: at("to") }));
  };
  const field = (name: keyof Asked, word: string, value: string | undefined, placeholder: string) => (
    <div><label for={`audit-${name}`}>{word}</label><input id={`audit-${name}`} class="field" name={name} type="search" autocomplete="off" maxLength={MAX_TEXT} defaultValue={value ?? ""} placeholder={placeholder} /></div>
  );
  return (
    <>
      <form class="row start" role="search" aria-label="Changes" onSubmit={submit}>
        {field("key", "Key", asked.key, "name or id")}
        {field("action", "Change", asked.action?.replaceAll("_", " "), "delete endpoint")}
        {field("target", "Of", asked.target, "endpoint 7")}
        {field("from", "Since", time(asked.from), "2d")}
        {field("to", "Until", time(asked.to), "2026-01-31T12:00")}
        <button class="btn main" type="submit">Filter</button>
        {Object.keys(asked).length === 0 ? null : <a class="btn" href={viewUrl("audit")}>Clear</a>}
      </form>
      {fault === null ? null : <Notice tone="bad">{fault}</Notice>}
    </>
  );
}
