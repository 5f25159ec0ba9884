// The figures and charts of all endpoints.

import { get, type Endpoint } from "../api.ts";
import { ActivityCharts } from "./activity-charts.tsx";
import { RangeButtons, useSpan } from "./chart.tsx";
import { Read } from "./common.tsx";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { added, askedFor, everyMs, latest, type Series, sparkline, spanQuery, total, type Values, valuesOf } from "../series.ts";
import { now } from "../state.ts";
import { countText, lengthText } from "../times.ts";

type Facts = Pick<Endpoint, "queuedTasks" | "runningTasks">;

/** `endpoints` are told as they change; the series has what they were. */
export function OverviewCharts({ endpoints }: { endpoints: readonly Facts[] }) {
  const { span, choose } = useSpan();
  const shown = usePolled(`series ${spanQuery(span)}`, everyMs(span), (signal) => get<Series>(["series"], askedFor(span, now.peek()), signal));
  return (
    <>
      <div class="row spread"><h2>Figures</h2><RangeButtons span={span} choose={choose} /></div>
      <Read from={shown} lines={6}>
        {(series) => (
          <>
            <Figures series={series} endpoints={endpoints} />
            <div class="grid2">
              <ActivityCharts series={series} choose={choose} />
            </div>
          </>
        )}
      </Read>
    </>
  );
}

function Figures({ series, endpoints }: { series: Series; endpoints: readonly Facts[] }) {
  const sum = (pick: (one: Facts) => number) => endpoints.reduce((result, one) => result + pick(one), 0);
  const oldest = latest(valuesOf(series, "oldest"));
  const slots = latest(valuesOf(series, "slots"));
  const running = sum((one) => one.runningTasks);
  const [good, failed] = [total(valuesOf(series, "succeeded")), total(valuesOf(series, "failed"))];
  const ended = added(valuesOf(series, "succeeded"), valuesOf(series, "failed"));
  const undelivered = valuesOf(series, "undelivered");
  const left = latest(undelivered);
  return (
    <div class="grid4">
      <Figure word="Waiting" value={countText(sum((one) => one.queuedTasks))} note={oldest ? `oldest ${lengthText(oldest)}` : "none is old"} url={viewUrl("tasks")} tone="queued" values={added(valuesOf(series, "queued"), valuesOf(series, "scheduled"))} />
      <Figure word="Running" value={countText(running)} note={slots ? `of ${countText(slots)} slots; ${Math.min(100, Math.round((running / slots) * 100))} % busy` : "no slots"} url={viewUrl("workers")} tone="running" values={valuesOf(series, "running")} />
      <Figure word="Finished in this range" value={countText(good + failed)} note={good + failed === 0 ? "none ended" : `${((good / (good + failed)) * 100).toFixed(1)} % succeeded`} url={viewUrl("tasks")} tone="succeeded" values={ended} />
      <Figure word="Results not delivered" value={left === null ? "–" : countText(left)} note={left ? "wait for their receivers" : "none waits"} url={viewUrl("deliveries")} tone="failed" values={undelivered} />
    </div>
  );
}

const WIDTH = 300;
const HEIGHT = 34;

function Figure({ word, value, note, url, tone, values }: { word: string; value: string; note: string; url: string; tone: string; values: Values }) {
  return (
    <a class="card figure" href={url}>
      <span class="muted">{word}</span><b>{value}</b><span class="muted">{note}</span>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
        {sparkline(values, WIDTH, HEIGHT).map((points) => <polyline key={points} class={`l-${tone}`} points={points} />)}
      </svg>
    </a>
  );
}
