import { get, type Schemas } from "../api.ts";
import { Card, Empty, Foreign, Notice, Read, Time, Title } from "../parts/common.tsx";
import { State } from "../parts/shapes.tsx";
import { usePolled } from "../polled.ts";
import { countText, lengthText, sizeText } from "../times.ts";

export type System = Schemas["SystemView"];
type Server = Schemas["StoreServerView"];
type Process = Schemas["ProcessView"];

const EVERY_MS = 5000;

export function readSystem(signal: AbortSignal): Promise<System> {
  return get<System>(["system"], {}, signal);
}

/** The installation for operators; for keys of a tenant, what concerns the tenant. */
export function SystemScreen() {
  const shown = usePolled("system", EVERY_MS, readSystem);
  return (
    <>
      <Title text="System" />
      <h1>System</h1>
      <Read from={shown} lines={8}>
        {(system) => (
          <>
            <Warnings system={system} />
            {system.use === null ? null : <Use use={system.use} />}
            {system.store === null ? null : system.store.map((one) => <Store key={one.address ?? ""} server={one} />)}
            {system.processes === null ? null : <Processes processes={system.processes} />}
            {system.store === null ? <p class="muted">The store and the processes are shown to keys of operators, which <code>queue-engine keys create --operator</code> makes on the store. Under <code>up</code>, set <code>QUEUE_ENGINE_REDIS_URL_FILE=queue-engine-data/store/store-url</code> for it.</p> : null}
            <p class="muted">As of <Time at={system.asOf} />, by an API process of version {system.version}.</p>
          </>
        )}
      </Read>
    </>
  );
}

function Warnings({ system }: { system: System }) {
  return (
    <Card id="warnings" title="What is wrong" aside={<span class="muted">{system.warnings.length === 0 ? "" : `${system.warnings.length}, worst first`}</span>}>
      {system.warnings.length === 0 ? <Empty>Nothing was found wrong.</Empty> : (
        <div class="body stack tight">
          {system.warnings.map((one) => <Notice key={one.message} tone={one.level}><State tone={one.level === "bad" ? "failed" : "scheduled"}>{one.code.replaceAll("_", " ")}</State> <Foreign text={one.message} limit={600} /></Notice>)}
        </div>
      )}
    </Card>
  );
}

function Use({ use }: { use: Schemas["UseView"][] }) {
  return (
    <Card id="use" title="What this tenant uses">
      <div class="wrap" tabIndex={0} role="region" aria-label="What this tenant uses">
        <table>
          <thead><tr><th scope="col">Of</th><th scope="col" class="num">Used</th><th scope="col" class="num">Limit</th><th scope="col">Share</th></tr></thead>
          <tbody>
            {use.map((one) => {
              const shown = one.limit === "storedBytes" ? sizeText : countText;
              return <tr key={one.limit}><td>{one.text}</td><td class="num">{shown(one.used)}</td><td class="num">{one.value === 0 ? "none" : shown(one.value)}</td><td>{one.value === 0 ? "–" : <Share of={one.used} all={one.value} label={one.text} />}</td></tr>;
            })}
          </tbody>
        </table>
      </div>
    </Card>
  );
}

function Share({ of, all, label }: { of: number; all: number; label: string }) {
  return <progress max={all} value={Math.min(of, all)} aria-label={`${label}: ${Math.round((of / all) * 100)} % of the limit`} />;
}

function Store({ server }: { server: Server }) {
  return (
    <Card id={`store ${server.address ?? ""}`.trim().replaceAll(" ", "-")} title={server.address === null ? "Store" : `Store ${server.address}`} aside={<span class="muted"><Foreign text={server.server} limit={60} /></span>}>
      <div class="body">
        <dl class="facts">
          <dt>Memory</dt><dd>{sizeText(server.usedBytes)} {server.maxBytes === null ? "without a limit" : <>of {sizeText(server.maxBytes)} <Share of={server.usedBytes} all={server.maxBytes} label="Memory" /></>}</dd>
          <dt>Persistence</dt><dd>{server.writeError !== null ? <State tone="failed">{server.writeError} fails</State> : server.appendsToFile ? "append-only file" : "snapshots only: the latest writes are lost in a crash"}{server.savedAt === null ? null : <>, latest snapshot <Time at={server.savedAt} /></>}</dd>
          <dt>Replicas</dt><dd>{server.replicas.length === 0 ? "none" : server.replicas.map((one) => <div key={one.address}><span class="mono">{one.address}</span> {one.state}{one.lagSeconds === null ? "" : `, ${one.lagSeconds} s behind`}</div>)}</dd>
          <dt>Latency</dt><dd>{server.latencyMs.toFixed(1)} ms from this API process</dd>
          <dt>Connections</dt><dd>{countText(server.clients)}{server.maxClients === null ? "" : ` of ${countText(server.maxClients)}`}</dd>
          <dt>Runs for</dt><dd>{lengthText(server.uptimeSeconds * 1000)}</dd>
        </dl>
      </div>
    </Card>
  );
}

function Processes({ processes }: { processes: Process[] }) {
  return (
    <Card id="processes" title="Processes" aside={<span class="muted">{countText(processes.length)}</span>}>
      <div class="wrap" tabIndex={0} role="region" aria-label="Processes">
        <table>
          <thead><tr><th scope="col">Process</th><th scope="col">Host</th><th scope="col" class="num">PID</th><th scope="col">Version</th><th scope="col" class="num">Format</th><th scope="col">Started</th><th scope="col">Heartbeat</th><th scope="col">Certificates</th></tr></thead>
          <tbody>
            {processes.map((one) => (
              <tr key={`${one.role} ${one.host} ${one.pid} ${one.startedAt}`}>
                <td>{one.role} {one.leads ? <State tone="succeeded">leads</State> : null}</td>
                <td class="mono"><Foreign text={one.host} limit={80} /></td>
                <td class="num">{one.pid ?? "–"}</td>
                <td>{one.version ?? "an earlier one"}</td>
                <td class="num">{one.dataFormat}</td>
                <td><Time at={one.startedAt} /></td>
                <td><Time at={one.lastHeartbeatAt} /></td>
                <td>{one.certificates.length === 0 ? <span class="muted">–</span> : one.certificates.map((each) => <div key={each.setting}>{each.setting}: <Time at={each.expiresAt} /></div>)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Card>
  );
}
