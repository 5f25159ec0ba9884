import { useLocation } from "preact-iso";
import { get, type Schemas } from "../api.ts";
import { Card, Empty, Foreign, Read, Time, Title } from "../parts/common.tsx";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";

const SIZE = 100;

export function AuditScreen() {
  const { query } = useLocation();
  const before = /^[0-9]{1,19}-[0-9]{1,19}$/.test(query["before"] ?? "") ? query["before"] : undefined;
  const shown = usePolled(`audit ${before ?? ""}`, before === undefined ? 5000 : 0, (signal) => get<Schemas["AuditPageView"]>(["audit"], { pageSize: SIZE, before }, signal));
  return (
    <>
      <Title text="Audit log" />
      <h1>Audit log</h1>
      <Read from={shown} lines={8}>
        {(page) => (
          <Card id="audit" title="Changes" aside={<span class="muted">newest first; the newest 10,000 are kept, submissions are not in it</span>}>
            {page.items.length === 0 ? <Empty>There is no {before === undefined ? "change" : "older change"}.</Empty> : (
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
                {before === undefined ? null : <a class="btn" href={viewUrl("audit")}>Newest</a>}
                {page.hasMore && page.nextBefore !== null ? <a class="btn" href={`${viewUrl("audit")}?before=${encodeURIComponent(page.nextBefore)}`}>Older</a> : null}
              </nav>
            )}
          </Card>
        )}
      </Read>
    </>
  );
}
