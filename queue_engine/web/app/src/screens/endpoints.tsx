import { type Endpoint, get } from "../api.ts";
import { Read, Title } from "../parts/common.tsx";
import { EndpointsTable, type Shortened } from "../parts/endpoints-table.tsx";
import { usePolled } from "../polled.ts";

const NO_COUNTS = new Map();

export function EndpointsScreen() {
  const shown = usePolled<Shortened[]>("endpoints", 4000, (signal) => get<Endpoint[]>(["serverless"], {}, signal), { name: "overview", take: (event) => (event as { endpoints: Shortened[] }).endpoints });
  return (
    <>
      <Title text="Endpoints" />
      <h1>Endpoints</h1>
      <Read from={shown} lines={6}>{(endpoints) => <EndpointsTable endpoints={endpoints} counts={NO_COUNTS} />}</Read>
    </>
  );
}
