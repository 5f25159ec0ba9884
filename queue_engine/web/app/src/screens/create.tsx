import { useLocation } from "preact-iso";
import { get, type Template } from "../api.ts";
import { useDraft } from "../drafts.ts";
import { AgentCommand } from "../parts/agent-command.tsx";
import { Card, Foreign, Notice, Read, Title } from "../parts/common.tsx";
import { EndpointForm } from "../parts/later.tsx";
import { TemplateChoice } from "../parts/template-choice.tsx";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";

/** A new endpoint. The template is in the URL. */
export function CreateScreen() {
  const { route, query } = useLocation();
  const templates = usePolled("templates", 0, (signal) => get<Template[]>(["templates"], {}, signal));
  const [served, setServed] = useDraft<string | null>("endpoint of a running server", null);
  const choose = (id: string) => { setServed(null); route(`${viewUrl("endpoints", "new")}?template=${encodeURIComponent(id)}`); };
  return (
    <>
      <Title text="New endpoint" />
      <div class="row"><a href={viewUrl("endpoints")}>Endpoints</a><span class="muted">/</span><h1>New endpoint</h1></div>
      <Read from={templates}>
        {(all) => {
          const template = all.find((one) => one.id === query["template"]) ?? all.find((one) => one.id === "own") ?? all[0];
          if (template === undefined) return <Notice tone="bad">The API has no template.</Notice>;
          const created = (id: string) => (template.agentCommand === null ? route(viewUrl("endpoints", id)) : setServed(id));
          return (
            <>
              <TemplateChoice templates={all} chosen={template.id} choose={choose} />
              {served === null ? <EndpointForm template={template} created={created} /> : (
                <Card id="agent" title="Start an agent beside your server" aside={<a href={viewUrl("endpoints", served)}>Open the endpoint <Foreign text={served} /></a>}>
                  <div class="body"><AgentCommand template={template} endpoint={served} /></div>
                </Card>
              )}
            </>
          );
        }}
      </Read>
    </>
  );
}
