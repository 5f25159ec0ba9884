// The four charts of an endpoint.

import { type Endpoint, get } from "../api.ts";
import { ActivityCharts } from "./activity-charts.tsx";
import { Chart, RangeButtons, useSpan } from "./chart.tsx";
import { Read } from "./common.tsx";
import { usePolled } from "../polled.ts";
import { askedFor, everyMs, type Series, spanQuery, valuesOf } from "../series.ts";
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
            <ActivityCharts series={series} choose={choose} />
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
