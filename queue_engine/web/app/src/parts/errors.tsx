// The newest failures of an endpoint in groups with the same error, and what can be done for a group.

import { useState } from "preact/hooks";
import { type Endpoint, get, type Schemas } from "../api.ts";
import { BulkDialog, type Order } from "./bulk.tsx";
import { Action, Card, Empty, Foreign, Read, Time } from "./common.tsx";
import { type Filters, listQuery, periodOf } from "../filters.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { countText } from "../times.ts";

type Group = Schemas["ErrorGroupView"];
type Groups = Schemas["ErrorGroupsView"];

const EVERY_MS = 15_000;
const SHOWN = 5;

/** The groups in the period of the filters. The other filters do not change them, which the title says. */
export function ErrorGroups({ endpoint, filters = {} }: { endpoint: Endpoint; filters?: Filters }) {
  const period = periodOf(filters);
  const query = { from: period.finishedAfter, to: period.finishedBefore };
  const key = `errors ${endpoint.id} ${query.from ?? ""} ${query.to ?? ""}`;
  const shown = usePolled(key, EVERY_MS, (signal) => get<Groups>(["serverless", endpoint.id, "errors"], query, signal));
  const [order, setOrder] = useState<Order | null>(null);
  const [showsAll, setShowsAll] = useState(false);
  if (shown.data !== null && shown.data.groups.length === 0 && shown.error === null) return null;
  const retry = (group: Group) => async () => setOrder({ endpoint, action: "retry", target: { filter: { ...period, errorSignature: group.signature } } });
  return (
    <Card id="errors" title="Errors of this endpoint" aside={shown.data === null ? null : <LookedAt found={shown.data} />}>
      <Read from={shown}>
        {(found) => (
          <>
            <div class="wrap" tabIndex={0} role="region" aria-label="Errors">
              <table>
                <thead><tr><th scope="col" class="num">Tasks</th><th scope="col">Over time</th><th scope="col">Error</th><th scope="col">First</th><th scope="col">Last</th><th scope="col"><span class="vh">Actions</span></th></tr></thead>
                <tbody>
                  {found.groups.slice(0, showsAll ? undefined : SHOWN).map((one) => <Line key={one.signature} group={one} show={viewUrl("tasks") + listQuery(endpoint.id, { ...period, errorSignature: one.signature })} retry={retry(one)} />)}
                </tbody>
              </table>
            </div>
            {showsAll || found.groups.length <= SHOWN ? null : <div class="body"><button class="btn" type="button" onClick={() => setShowsAll(true)}>Show {found.groups.length - SHOWN} more errors</button></div>}
            {found.others === 0 ? null : <Empty>{countText(found.others)} tasks have other errors, fewer of each.</Empty>}
          </>
        )}
      </Read>
      {order === null ? null : <BulkDialog order={order} close={() => setOrder(null)} />}
    </Card>
  );
}

function LookedAt({ found }: { found: Groups }) {
  const of = found.complete ? "" : `, the newest of ${countText(found.failures)}`;
  return <span class="muted">{countText(found.lookedAt)} {found.lookedAt === 1 ? "failure" : "failures"} looked at{of}</span>;
}

function Line({ group, show, retry }: { group: Group; show: string; retry: () => Promise<void> }) {
  return (
    <tr>
      <td class="num"><b>{countText(group.count)}</b></td>
      <td><OverTime counts={group.overTime} /></td>
      <td class="clip mono" title={group.error}><Foreign text={group.signature} limit={200} /></td>
      <td><Time at={group.firstAt} /></td>
      <td><Time at={group.lastAt} /></td>
      <td class="nowrap"><span class="row"><a class="btn" href={show}>Show<span class="vh"> tasks with this error</span></a><Action right="operate" act={retry}>Retry {countText(group.count)}…</Action></span></td>
    </tr>
  );
}

const WIDTH = 3;
const HEIGHT = 18;

function OverTime({ counts }: { counts: number[] }) {
  const most = Math.max(1, ...counts);
  const height = (count: number) => (count === 0 ? 0 : Math.max(2, Math.round((count / most) * HEIGHT)));
  return (
    <svg width={counts.length * WIDTH} height={HEIGHT} role="img" aria-label={`At most ${countText(most)} in one of ${counts.length} parts of the period`}>
      {counts.map((count, index) => <rect class="f-failed" key={index} x={index * WIDTH} y={HEIGHT - height(count)} width={WIDTH - 1} height={height(count)} />)}
    </svg>
  );
}
