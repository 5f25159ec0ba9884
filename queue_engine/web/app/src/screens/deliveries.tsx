import { type Endpoint, get, type Schemas, send } from "../api.ts";
import { Action, Card, Empty, Foreign, Notice, Read, Time, Title, useActions } from "../parts/common.tsx";
import { State } from "../parts/shapes.tsx";
import { listQuery } from "../filters.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { agoText, countText, lengthText } from "../times.ts";

type Destination = Schemas["DestinationView"];

const EVERY_MS = 5000;
const GIVEN_UP_MS = 15_000;
/** Endpoints whose given-up deliveries are counted. The API has no sum over endpoints. */
const MAX_COUNTED = 50;

/** Types of errors in words. An unknown one is shown as it is. */
const ERRORS: Record<string, string> = {
  dns_error: "its name has no address", connect_refused: "the connection was refused", connect_timeout: "no connection in time",
  tls_error: "TLS failed", read_timeout: "no response in time", reset: "the connection was closed", bad_response: "the response is not HTTP",
  gone: "410 Gone", http_5xx: "HTTP 5xx", http_4xx: "HTTP 4xx", rate_limited: "429 Too Many Requests", redirect: "a redirect", blocked_address: "the address is not allowed",
};

const STANDINGS: Record<Destination["standing"], [string, string]> = {
  GOOD: ["succeeded", "good"], DEGRADED: ["scheduled", "degraded"], PARKED: ["failed", "parked"],
};

export function errorWords(type: string | null): string {
  return type === null ? "–" : ERRORS[type] ?? type;
}

function Standing({ of }: { of: Destination }) {
  const [tone, word] = STANDINGS[of.standing];
  return <State tone={tone}>{word}</State>;
}

export function DeliveriesScreen() {
  const shown = usePolled("destinations", EVERY_MS, (signal) => get<Destination[]>(["destinations"], {}, signal));
  return (
    <>
      <Title text="Deliveries" />
      <h1>Deliveries</h1>
      <Read from={shown}>
        {(all) => (
          <Card id="destinations" title="Destinations with which something is wrong" aside={<span class="muted">{countText(all.length)}</span>}>
            {all.length === 0 ? <Empty>Nothing wrong was noted: every receiver of webhooks responds, or has nothing to receive.</Empty> : <Destinations all={all} again={shown.again} />}
          </Card>
        )}
      </Read>
      <GivenUp />
    </>
  );
}

function Destinations({ all, again }: { all: Destination[]; again: () => void }) {
  const { run, error } = useActions(again);
  return (
    <>
      {error}
      <div class="wrap" tabIndex={0} role="region" aria-label="Destinations with which something is wrong">
        <table>
          <thead><tr><th scope="col">Destination</th><th scope="col">Standing</th><th scope="col" class="num" title="Without results that wait for their own next attempt">Held back</th><th scope="col">Since</th><th scope="col">Next attempt</th><th scope="col">Last failure</th><th scope="col"><span class="vh">Actions</span></th></tr></thead>
          <tbody>
            {all.map((one) => (
              <tr key={one.destination}>
                <td class="mono"><a href={viewUrl("deliveries", one.origin)}><Foreign text={one.destination} limit={120} /></a></td>
                <td><Standing of={one} /></td>
                <td class="num">{countText(one.waiting)}</td>
                <td><Time at={one.since} /></td>
                <td class="nowrap">{nextAttempt(one)}</td>
                <td><Foreign text={errorWords(one.lastError)} limit={60} /></td>
                <td>{one.standing === "PARKED" ? <Action right="operate" act={run(() => send("POST", ["destinations", one.origin, "resume"]))}>Try now</Action> : null}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function nextAttempt(one: Destination): string {
  if (one.standing !== "PARKED") return "as they come";
  return one.nextAttemptAt === null ? "being made" : agoText(Math.min(0, now.value - one.nextAttemptAt));
}

async function readGivenUp(signal: AbortSignal) {
  const endpoints = (await get<Endpoint[]>(["serverless"], {}, signal)).filter((one) => one.serviceMode === "QUEUE");
  const counted = endpoints.slice(0, MAX_COUNTED);
  const totals = await Promise.all(counted.map(async (one) => (await get<{ total: number }>(["serverless", one.id, "deliveries"], { pageSize: 1 }, signal)).total));
  return { found: counted.map((endpoint, index) => ({ endpoint, total: totals[index] ?? 0 })).filter((one) => one.total > 0), counted: counted.length, all: endpoints.length };
}

function GivenUp() {
  const shown = usePolled("given up", GIVEN_UP_MS, readGivenUp);
  return (
    <Read from={shown}>
      {({ found, counted, all }) => (
        <Card id="given-up" title="Results that were given up" aside={counted < all ? <span class="muted">in the newest {counted} of {countText(all)} endpoints</span> : null}>
          {found.length === 0 ? <Empty>No result was given up.</Empty> : (
            <div class="wrap" tabIndex={0} role="region" aria-label="Results that were given up">
              <table>
                <thead><tr><th scope="col">Endpoint</th><th scope="col" class="num">Given up</th></tr></thead>
                <tbody>
                  {found.map(({ endpoint, total }) => (
                    <tr key={endpoint.id}><td><a href={viewUrl("endpoints", endpoint.id, "deliveries")}><Foreign text={endpoint.name} limit={80} /></a></td><td class="num">{countText(total)}</td></tr>
                  ))}
                </tbody>
              </table>
            </div>
          )}
        </Card>
      )}
    </Read>
  );
}

export function DestinationScreen({ origin = "" }: { origin?: string }) {
  const shown = usePolled(`destination ${origin}`, EVERY_MS, (signal) => get<Destination>(["destinations", origin], {}, signal));
  const { run, error } = useActions(shown.again);
  return (
    <>
      <Title text={`Destination ${origin}`} />
      <div class="row"><a href={viewUrl("deliveries")}>Deliveries</a><span class="muted">/</span><h1 class="mono"><Foreign text={shown.data?.destination ?? origin} limit={200} /></h1>{shown.data ? <Standing of={shown.data} /> : null}</div>
      {error}
      <Read from={shown}>
        {(one) => (
          <>
            <Why of={one} />
            <Card id="facts" title="Destination" aside={<Action right="operate" kind="main" because={one.standing === "PARKED" ? null : "It is not paused"} act={run(() => send("POST", ["destinations", origin, "resume"]))}>Try now</Action>}>
              <div class="body">
                <dl class="facts">
                  <dt>Held back</dt><dd>{countText(one.waiting)}</dd>
                  <dt>In flight</dt><dd>{countText(one.inFlight)}</dd>
                  <dt>Since</dt><dd><Time at={one.since} /></dd>
                  <dt>Failures in a row</dt><dd>{countText(one.errors)}</dd>
                  <dt>Next attempt</dt><dd>{nextAttempt(one)}</dd>
                  <dt>Last failure</dt><dd><Foreign text={errorWords(one.lastError)} limit={60} /> <Time at={one.lastErrorAt} /></dd>
                </dl>
              </div>
            </Card>
            <Tasks of={one} />
            <GivenUpThere of={one} />
          </>
        )}
      </Read>
    </>
  );
}

function Why({ of }: { of: Destination }) {
  if (of.standing === "GOOD") return <Notice tone="info">Nothing wrong was noted: deliveries are sent as they come.</Notice>;
  if (of.standing === "DEGRADED") return <Notice tone="warn"><b>It gets few deliveries at a time.</b> Attempts have failed or are slow, so other receivers go first.</Notice>;
  const wait = of.nextAttemptAt === null ? null : Math.max(0, of.nextAttemptAt - now.value);
  return (
    <Notice tone="bad">
      <b>Deliveries are paused.</b> {of.errors > 1 ? `The last ${of.errors} attempts got no response` : "The receiver asked for a pause, or did not respond"}: <Foreign text={errorWords(of.lastError)} limit={60} />.{" "}
      {wait === null ? "One delivery is being tried." : wait === 0 ? "The next one is tried when it is due." : `One is tried in ${lengthText(wait)}; the pause grows up to 5 minutes.`} No attempt of a delivery that waits is used up.
    </Notice>
  );
}

function GivenUpThere({ of }: { of: Destination }) {
  const shown = usePolled("endpoints of deliveries", 0, (signal) => get<Endpoint[]>(["serverless"], {}, signal));
  return (
    <Read from={shown}>
      {(all) => (
        <Card id="given-up-there" title="Results for it that were given up">
          <div class="body row">
            {all.filter((one) => one.serviceMode === "QUEUE").slice(0, MAX_COUNTED).map((one) => (
              <a key={one.id} class="btn" href={`${viewUrl("endpoints", one.id, "deliveries")}?destination=${encodeURIComponent(of.destination)}`}><Foreign text={one.name} limit={80} /></a>
            ))}
            {all.length === 0 ? <span class="muted">There is no endpoint.</span> : null}
          </div>
        </Card>
      )}
    </Read>
  );
}

function Tasks({ of }: { of: Destination }) {
  const shown = usePolled("endpoints of deliveries", 0, (signal) => get<Endpoint[]>(["serverless"], {}, signal));
  return (
    <Read from={shown}>
      {(all) => (
        <Card id="tasks" title="Tasks with a webhook there">
          <div class="body row">
            {all.filter((one) => one.serviceMode === "QUEUE").slice(0, MAX_COUNTED).map((one) => (
              <a key={one.id} class="btn" href={viewUrl("tasks") + listQuery(one.id, { destination: of.destination })}><Foreign text={one.name} limit={80} /></a>
            ))}
            {all.length === 0 ? <span class="muted">There is no endpoint.</span> : null}
          </div>
        </Card>
      )}
    </Read>
  );
}
