// The charts that the overview and an endpoint have in common.

import { Chart } from "./chart.tsx";
import { added, perMinute, type Series, type Span, valuesOf } from "../series.ts";

export function ActivityCharts({ series, choose }: { series: Series; choose: (span: Span) => void }) {
  return (
    <>
      <Chart id="chart-waiting" title="Waiting and running" series={series} choose={choose} lines={[
        { word: "waiting", tone: "queued", unit: "count", values: added(valuesOf(series, "queued"), valuesOf(series, "scheduled")) },
        { word: "running", tone: "running", unit: "count", values: valuesOf(series, "running") },
      ]} />
      <Chart id="chart-rates" title="Tasks a minute" series={series} choose={choose} lines={[
        { word: "submitted", tone: "queued", unit: "rate", values: perMinute(series, "submitted") },
        { word: "succeeded", tone: "succeeded", unit: "rate", values: perMinute(series, "succeeded") },
        { word: "failed", tone: "failed", unit: "rate", values: perMinute(series, "failed") },
      ]} />
    </>
  );
}
