import type { Template } from "../api.ts";
import { Foreign } from "./common.tsx";

/** The templates as choices. One that cannot be used here is named too. */
export function TemplateChoice({ templates, chosen, choose }: { templates: Template[]; chosen: string; choose: (id: string) => void }) {
  const hasExample = templates.some((one) => one.id === "example-worker");
  return (
    <fieldset class="pick">
      <legend class="muted">Start with</legend>
      {hasExample ? null : <label><input type="radio" name="template" disabled /> <b>Example worker</b><br /><span class="muted">only where workers are processes, with <code>queue-engine up</code></span></label>}
      {templates.map((one) => (
        <label key={one.id} class={chosen === one.id ? "on" : ""}>
          <input type="radio" name="template" checked={chosen === one.id} onChange={() => choose(one.id)} /> <b><Foreign text={one.title} limit={80} /></b><br /><span class="muted"><Foreign text={one.text} limit={200} /></span>
        </label>
      ))}
    </fieldset>
  );
}
