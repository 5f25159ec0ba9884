// A server that runs already: a token for its agent, and the command that starts the agent beside it.

import { get, type Schemas, send, type Template, type Worker } from "../api.ts";
import { useDraft } from "../drafts.ts";
import { API_ORIGIN, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { Action, CopyButton, Foreign, Notice, useActions } from "./common.tsx";

const EVERY_MS = 2000;

export function AgentCommand({ template, endpoint }: { template: Template; endpoint: string }) {
  const [url, setUrl] = useDraft("container url", "http://127.0.0.1:9000");
  const [token, setToken] = useDraft<string | null>(`agent token ${endpoint}`, null);
  const { run, error } = useActions(() => undefined);
  const create = run(async () => {
    const made = await send<Schemas["NewAgentTokenView"]>("POST", ["serverless", endpoint, "agent-tokens"], JSON.stringify({ name: "from the console" }));
    setToken(made.token);
  });
  const text = commandText(template, { url: API_ORIGIN, endpointId: endpoint, token: token ?? "TOKEN", containerUrl: url });
  return (
    <div class="stack tight">
      <label for="container-url">URL of your server, as its own machine reaches it</label>
      <input id="container-url" class="field" spellcheck={false} value={url} onInput={(event) => setUrl(event.currentTarget.value)} />
      {token === null
        ? <div class="row"><Action right="manage" kind="main" act={create}>Create a token for the agent</Action><span class="muted">It is shown once, in the command.</span></div>
        : <Notice tone="info">Run this beside your server. The token in it is shown only now; <code>pip install '/path/to/clone[agent]'</code>, of the engine's repository, has the program.</Notice>}
      {error}
      <pre class="log" tabIndex={0} aria-label="The command of the agent"><Foreign text={text} limit={2000} /></pre>
      <div class="row"><CopyButton text={() => text}>Copy the command</CopyButton><Arrived endpoint={endpoint} /></div>
    </div>
  );
}

/** Whether an agent has come. */
function Arrived({ endpoint }: { endpoint: string }) {
  const shown = usePolled(`agents of ${endpoint}`, EVERY_MS, (signal) => get<Worker[]>(["serverless", endpoint, "workers"], {}, signal));
  const first = shown.data?.[0];
  if (first === undefined) return <span class="muted" role="status">No agent has come yet.</span>;
  return <span role="status">The agent <a href={viewUrl("workers", endpoint, first.workerId)}><Foreign text={first.workerId} limit={63} /></a> is {first.status}. {first.error ? <Foreign text={first.error} limit={300} /> : null}</span>;
}

/** Return the template's command with its places filled. Each value is one word of the shell. */
function commandText(template: Template, given: Record<string, string>): string {
  return (template.agentCommand ?? "").replace(/\{(\w+)\}/g, (place, name: string) => (given[name] === undefined ? place : word(given[name])));
}

function word(text: string): string {
  return /^[\w:/.@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
