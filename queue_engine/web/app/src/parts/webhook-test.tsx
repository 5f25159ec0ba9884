// A test event to a webhook, and what came of it in words.

import { useState } from "preact/hooks";
import { ApiError, type Endpoint, type Schemas, send } from "../api.ts";
import { useDraft } from "../drafts.ts";
import { lengthText } from "../times.ts";
import { Action, Card, ErrorNotice, Foreign, Notice } from "./common.tsx";

type Result = Schemas["WebhookTestView"];

/** The API holds the request until the receiver has responded. */
const HELD_SECONDS = 30;

export function WebhookTest({ endpoint }: { endpoint: Pick<Endpoint, "id" | "webhook"> }) {
  const [webhook, setWebhook] = useDraft(`webhook of ${endpoint.id}`, endpoint.webhook ?? "");
  const [key, setKey] = useDraft(`webhook key of ${endpoint.id}`, "");
  const [result, setResult] = useState<Result | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const test = async () => {
    setError(null);
    setResult(null);
    const body = { ...(webhook === "" ? {} : { webhook }), ...(key === "" ? {} : { webhookAuthKey: key }) };
    try {
      setResult(await send<Result>("POST", ["serverless", endpoint.id, "webhook-test"], JSON.stringify(body), undefined, HELD_SECONDS));
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  return (
    <Card id="webhook-test" title="Test a webhook">
      <div class="body stack tight">
        <div class="grid2">
          <div><label for="test-webhook">URL</label><input id="test-webhook" class="field" spellcheck={false} placeholder="https://…" value={webhook} onInput={(event) => setWebhook(event.currentTarget.value)} /></div>
          <div><label for="test-key">Key of the receiver</label><input id="test-key" class="field" type="password" autocomplete="off" placeholder="none" value={key} onInput={(event) => setKey(event.currentTarget.value)} /></div>
        </div>
        <div class="row"><Action right="operate" act={test} because={webhook === "" ? "A URL is needed" : null}>Send a test event</Action><span class="muted">One signed event of the type <code>webhook.test</code>, sent as results are.</span></div>
        <div role="status">{result === null ? null : <Outcome result={result} />}</div>
        {error ? <ErrorNotice error={error} /> : null}
      </div>
    </Card>
  );
}

function Outcome({ result }: { result: Result }) {
  const { connectMs, tlsMs, waitMs } = result.phases;
  const phases = ([["connection", connectMs], ["TLS", tlsMs], ["response", waitMs]] as const).filter(([, ms]) => ms !== null).map(([word, ms]) => `${word} ${lengthText(ms ?? 0)}`);
  return (
    <Notice tone={result.delivered ? "info" : "warn"}>
      <b>{result.delivered ? "Delivered" : "Not delivered"}:</b> <Foreign text={result.message} limit={600} />. {phases.length > 0 ? <span class="muted">{phases.join(", ")}.</span> : null}
      {result.response === "" ? null : <pre class="log" tabIndex={0} aria-label="The receiver's response"><Foreign text={result.response} limit={2048} /></pre>}
    </Notice>
  );
}
