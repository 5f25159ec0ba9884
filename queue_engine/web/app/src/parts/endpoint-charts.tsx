// The four charts of an endpoint.

import { type Endpoint, get } from "../api.ts";
import { Chart, RangeButtons, useSpan } from "./chart.tsx";
import { Read } from "./common.tsx";
import { usePolled } from "../polled.ts";
import { added, askedFor, everyMs, perMinute, type Series, spanQuery, valuesOf } from "../series.ts";
import { now } from "../state.ts";

export function EndpointCharts({ endpoint }: { endpoint: Pick<Endpoint, "id"> }) {
  const { span, choose } = useSpan();
  const read = (signal: AbortSignal) => get<Series>(["serverless", endpoint.id, "series"], askedFor(span, now.peek()), signal);
  const shown = usePolled(`series ${endpoint.id} ${spanQuery(span)}`, everyMs(span), read);
  return (
    <>
      <div class="row spread"><h2>Figures over time</h2><RangeButtons span={span} choose={choose} /></div>
      <Read from={shown} lines={6}>
        {(series) => (
          <div class="grid2">
            <Chart id="chart-waiting" title="Waiting and running" series={series} choose={choose} lines={[
              { word: "waiting", tone: "queued", unit: "count", values: added(valuesOf(series, "queued"), valuesOf(series, "scheduled")) },
              { word: "running", tone: "running", unit: "count", values: valuesOf(series, "running") },
            ]} />
            <Chart id="chart-rates" title="Tasks a minute" series={series} choose={choose} lines={[
              { word: "submitted", tone: "queued", unit: "rate", values: perMinute(series, "submitted") },
              { word: "succeeded", tone: "succeeded", unit: "rate", values: perMinute(series, "succeeded") },
              { word: "failed", tone: "failed", unit: "rate", values: perMinute(series, "failed") },
            ]} />
            <Chart id="chart-times" title="Time waiting, sampled" series={series} choose={choose} lines={[
              { word: "median", tone: "running", unit: "ms", values: valuesOf(series, "waitP50") },
              { word: "95 % below", tone: "scheduled", unit: "ms", values: valuesOf(series, "waitP95") },
            ]} />
            <Chart id="chart-slots" title="Slots busy" series={series} choose={choose} lines={[
              { word: "busy", tone: "running", unit: "count", values: valuesOf(series, "running") },
              { word: "slots", tone: "queued", unit: "count", values: valuesOf(series, "slots") },
            ]} />
          </div>
        )}
      </Read>
    </>
  );
}
