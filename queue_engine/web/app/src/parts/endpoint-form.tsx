// The form of an endpoint, made from the settings' definitions: the fields, which a new endpoint and the settings of one
// share, the form of a new endpoint, and the same request as a command beside it.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, type Schemas, send, type Template } from "../api.ts";
import { curlText } from "../curl.ts";
import { forgetDraft, useDraft } from "../drafts.ts";
import { bodyOf, type FieldErrors, fieldErrors, keepsValue, limitsText, plainSettings, pricePerHour, type Setting, shownBody, type Values, valuesOf } from "../new-endpoint.ts";
import { API_ORIGIN, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { can } from "../state.ts";
import { Action, Card, CopyButton, ErrorNotice, Foreign, Notice, Read } from "./common.tsx";

export type Catalogue = Schemas["CatalogueView"];
type Credential = Schemas["CredentialView"];

/** Settings of the first part of the form. The others are under "More settings", in the order of their definition. */
const FIRST = ["name", "image", "initializationCommand", "serviceMode", "workers", "containerVolumeInGb"];
export const NO_ERRORS: FieldErrors = { byField: new Map(), others: "" };

interface Fields {
  values: Values;
  set: (change: Partial<Values>) => void;
  errors: FieldErrors;
  /** True if the endpoint exists: settings that are fixed are only shown, and each says if it replaces workers. */
  isChange?: boolean | undefined;
}

export function EndpointForm({ template, created, name = "new endpoint" }: { template: Template; created: (id: string) => void; name?: string }) {
  const catalogue = usePolled("catalogue", 0, (signal) => get<Catalogue>(["catalogue"], {}, signal));
  return <Read from={catalogue} lines={8}>{(known) => <Form key={template.id} template={template} catalogue={known} created={created} draft={`${name} ${template.id}`} />}</Read>;
}

function Form({ template, catalogue, created, draft }: { template: Template; catalogue: Catalogue; created: (id: string) => void; draft: string }) {
  const settings = catalogue.settings as Setting[];
  const [values, setValues] = useDraft<Values>(draft, valuesOf(template.endpoint, settings));
  const [error, setError] = useState<ApiError | null>(null);
  const form = useRef<HTMLFormElement>(null);
  const errors = error === null ? NO_ERRORS : fieldErrors(error.message, settings.map((one) => one.name));
  const fields: Fields = { values, errors, set: (change) => setValues((before) => ({ ...before, ...change })) };
  const body = bodyOf(values, settings);
  useEffect(() => form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus(), [error]);
  const create = async () => {
    setError(null);
    try {
      const { id } = await send<{ id: string }>("POST", ["serverless"], JSON.stringify(body));
      forgetDraft(draft);
      created(id);
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  return (
    <form class="side" ref={form} onSubmit={(event) => event.preventDefault()}>
      <div class="stack">
        <SettingFields {...fields} catalogue={catalogue} />
        {error === null ? null : errors.byField.size === 0 ? <ErrorNotice error={error} /> : <Notice tone="bad"><b>Not created.</b> <Broken errors={errors} /></Notice>}
        <div class="row"><Action right="manage_tenant" kind="main" act={create}>Create the endpoint</Action><Price values={values} catalogue={catalogue} /></div>
      </div>
      <aside><Request method="POST" path="/v2/serverless" body={body} /></aside>
    </form>
  );
}

/** All fields, with those that are rarely needed under "More settings". */
export function SettingFields({ catalogue, ...fields }: Fields & { catalogue: Catalogue }) {
  const settings = catalogue.settings as Setting[];
  const plain = plainSettings(settings);
  const more = plain.filter((one) => !FIRST.includes(one.name));
  const hasHiddenError = [...fields.errors.byField.keys()].some((path) => !isFirst(path));
  return (
    <>
      <div class="grid2">{plain.filter((one) => FIRST.includes(one.name)).map((one) => <Plain key={one.name} setting={one} {...fields} />)}</div>
      <Resources {...fields} catalogue={catalogue} setting={named(settings, "resources")} />
      <Port {...fields} setting={named(settings, "expose")} />
      <Variables {...fields} setting={named(settings, "environmentVars")} />
      <details open={hasHiddenError || undefined}>
        <summary>More settings: retries, limits, times, webhook</summary>
        <div class="grid2 more">
          {more.map((one) => (one.name === "containerRegistryAuthId" ? <Registry key={one.name} setting={one} {...fields} /> : <Plain key={one.name} setting={one} {...fields} />))}
          <Rate {...fields} setting={named(settings, "rateLimit")} />
          <Retries {...fields} outcomes={named(settings, "retryOn")} delays={named(settings, "retryDelaysSeconds")} />
        </div>
      </details>
    </>
  );
}

/** How many fields break a rule, and what the API says of no field. */
export function Broken({ errors }: { errors: FieldErrors }) {
  return <>{errors.byField.size === 1 ? "One field breaks" : `${errors.byField.size} fields break`} a rule, which stands beside it. <Foreign text={errors.others} /></>;
}

function isFirst(path: string): boolean {
  return [...FIRST, "resources", "expose", "environmentVars"].some((name) => path === name || path.startsWith(`${name}.`) || path.startsWith(`${name}[`));
}

function named(settings: Setting[], name: string): Setting {
  return settings.find((one) => one.name === name) ?? { name, shown: name, text: name, required: false, fixed: false, renewsWorkers: false, default: null, schema: {} };
}

/** The same as a command. Values of secret variables are only in what is copied. */
export function Request({ method, path, body }: { method: string; path: string; body: Record<string, unknown> }) {
  const text = (given: Record<string, unknown>) => curlText(API_ORIGIN, method, path, JSON.stringify(given, null, 2));
  return (
    <Card id="request" title="The same as a command" aside={<CopyButton text={() => text(body)}>Copy as curl</CopyButton>}>
      <pre class="log" tabIndex={0} aria-label="The request as a command"><Foreign text={text(shownBody(body))} limit={20_000} /></pre>
    </Card>
  );
}

function Price({ values, catalogue }: { values: Values; catalogue: Catalogue }) {
  const price = pricePerHour(values, catalogue.gpuTypes, catalogue.storagePricePerGbHour);
  return price === null ? null : <span class="muted">{price.toFixed(2)} per hour by the catalogue's prices</span>;
}

/** Text of a definition, in which names stand between back quotes. */
export function Words({ text }: { text: string }) {
  return <>{text.split("`").map((part, index) => (index % 2 === 1 ? <code key={index}>{part}</code> : part))}</>;
}

/** The meaning of a setting; in a change also whether it replaces workers. */
function Meaning({ setting, isChange }: { setting: Setting; isChange?: boolean | undefined }) {
  const consequence = !isChange ? "" : setting.fixed ? "; cannot be changed" : setting.renewsWorkers ? "; a change replaces the workers" : "";
  return <><Words text={setting.text} />{consequence}</>;
}

interface LabelledProps {
  path: string;
  label: string;
  errors: FieldErrors;
  hint?: ComponentChildren;
  children: (attributes: { id: string; "aria-invalid": boolean; "aria-describedby": string }) => ComponentChildren;
}

/** A field with its label, its rule, and the API's error. */
export function Labelled({ path, label, errors, hint, children }: LabelledProps) {
  const id = `f-${path.replace(/[^A-Za-z0-9]+/g, "-")}`;
  const error = errors.byField.get(path);
  return (
    <div>
      <label for={id}>{label}</label>
      {children({ id, "aria-invalid": error !== undefined, "aria-describedby": `${id}-hint` })}
      <p class="hint" id={`${id}-hint`}>{error === undefined ? hint : <span class="fault"><Foreign text={error} limit={600} /></span>}</p>
    </div>
  );
}

function Plain({ setting, values, set, errors, isChange }: { setting: Setting } & Fields) {
  const { name, schema } = setting;
  const value = values.plain[name] ?? "";
  const change = (text: string) => set({ plain: { ...values.plain, [name]: text } });
  const limits = limitsText(setting);
  return (
    <Labelled path={name} label={labelOf(name)} errors={errors} hint={<><Meaning setting={setting} isChange={isChange} />{limits ? `; ${limits}` : ""}</>}>
      {(attributes) => {
        const common = { ...attributes, class: "field", value };
        if (isChange && setting.fixed) return <input {...common} readOnly />;
        if (schema.enum) return <select {...common} onChange={(event) => change(event.currentTarget.value)}>{setting.required ? null : <option value="">default</option>}{schema.enum.map((one) => <option key={one} value={one}>{one}</option>)}</select>;
        if (name === "initializationCommand") return <textarea {...common} class="field low" spellcheck={false} onInput={(event) => change(event.currentTarget.value)} />;
        const isNumber = schema.type === "integer" || schema.type === "number";
        return <input {...common} inputMode={isNumber ? "decimal" : undefined} required={setting.required} spellcheck={false} autocomplete="off" placeholder={setting.default === null ? "" : String(setting.default)} onInput={(event) => change(event.currentTarget.value)} />;
      }}
    </Labelled>
  );
}

const SHORT: Record<string, string> = { gb: "GB", ram: "RAM", ttl: "TTL", uri: "URI", vcpu: "vCPU", vram: "VRAM" };

/** `maxQueuedTasks` as "Max queued tasks". */
export function labelOf(name: string): string {
  const words = name.replace(/([A-Z])/g, " $1").toLowerCase().replace(/\w+/g, (word) => SHORT[word] ?? word);
  return words[0]!.toUpperCase() + words.slice(1);
}

function Resources({ values, set, errors, catalogue, setting, isChange }: { catalogue: Catalogue; setting: Setting } & Fields) {
  const change = (index: number, more: object) => set({ resources: values.resources.map((one, at) => (at === index ? { ...one, ...more } : one)) });
  const first = catalogue.regions?.[0]?.name ?? "local";
  return (
    <fieldset class="group">
      <legend>Resources</legend>
      <p class="hint"><Meaning setting={setting} isChange={isChange} />. The first that has room is used.</p>
      {values.resources.map((one, index) => {
        const path = `resources[${index}]`;
        const offered = catalogue.regions?.find((region) => region.name === one.region)?.gpuTypes;
        const types = offered ?? catalogue.gpuTypes.map((type) => type.name);
        return (
          <div class="row start" key={index}>
            <Labelled path={`${path}.region`} label="Region" errors={errors} hint={catalogue.regions === null ? "any name" : ""}>
              {(attributes) => (catalogue.regions === null
                ? <input {...attributes} class="field" value={one.region} onInput={(event) => change(index, { region: event.currentTarget.value })} />
                : <select {...attributes} class="field" value={one.region} onChange={(event) => change(index, { region: event.currentTarget.value })}>{catalogue.regions.map((region) => <option key={region.name} value={region.name}>{region.name}</option>)}</select>)}
            </Labelled>
            <Labelled path={`${path}.gpuType`} label="GPU type" errors={errors}>
              {(attributes) => (
                <select {...attributes} class="field" value={one.gpuType} onChange={(event) => change(index, { gpuType: event.currentTarget.value })}>
                  {types.includes(one.gpuType) ? null : <option value={one.gpuType}>{one.gpuType}</option>}
                  {types.map((type) => <option key={type} value={type}>{type}</option>)}
                </select>
              )}
            </Labelled>
            <Labelled path={`${path}.gpuCount`} label="GPUs" errors={errors}>{(attributes) => <input {...attributes} class="field tiny" inputMode="numeric" value={one.gpuCount} onInput={(event) => change(index, { gpuCount: event.currentTarget.value })} />}</Labelled>
            {values.resources.length > 1 ? <button class="btn" type="button" onClick={() => set({ resources: values.resources.filter((_, at) => at !== index) })}>Remove<span class="vh"> resource {index + 1}</span></button> : null}
          </div>
        );
      })}
      <GroupFault path="resources" errors={errors} />
      <div><button class="btn" type="button" onClick={() => set({ resources: [...values.resources, { region: first, gpuType: catalogue.gpuTypes[0]?.name ?? "CPU", gpuCount: "1" }] })}>Add another place</button></div>
    </fieldset>
  );
}

function GroupFault({ path, errors }: { path: string; errors: FieldErrors }) {
  const error = errors.byField.get(path);
  return error === undefined ? null : <p class="hint fault"><Foreign text={error} limit={600} /></p>;
}

function Port({ values, set, errors, setting, isChange }: { setting: Setting } & Fields) {
  return (
    <fieldset class="group">
      <legend>Port</legend>
      <div class="row start">
        <Labelled path="expose.port" label="Port of the container" errors={errors} hint={<Meaning setting={setting} isChange={isChange} />}>{(attributes) => <input {...attributes} class="field" inputMode="numeric" value={values.port} onInput={(event) => set({ port: event.currentTarget.value })} />}</Labelled>
        <Labelled path="expose.protocol" label="Protocol" errors={errors}>{(attributes) => <select {...attributes} class="field" value={values.protocol} onChange={(event) => set({ protocol: event.currentTarget.value })}><option value="http">http</option><option value="tcp">tcp</option></select>}</Labelled>
      </div>
      <GroupFault path="expose" errors={errors} />
    </fieldset>
  );
}

function Variables({ values, set, errors, setting, isChange }: { setting: Setting } & Fields) {
  const change = (index: number, more: object) => set({ variables: values.variables.map((one, at) => (at === index ? { ...one, ...more } : one)) });
  return (
    <fieldset class="group">
      <legend>Environment</legend>
      <p class="hint"><Meaning setting={setting} isChange={isChange} />.{values.variables.some((one) => one.storedAs !== undefined) ? " Stored values are never shown. A variable for which you type nothing keeps its value." : ""}</p>
      {values.variables.map((one, index) => (
        <div class="row start" key={index}>
          <Labelled path={`environmentVars[${index}].key`} label="Name" errors={errors}>{(attributes) => <input {...attributes} class="field" spellcheck={false} autocomplete="off" value={one.key} onInput={(event) => change(index, { key: event.currentTarget.value })} />}</Labelled>
          <Labelled path={`environmentVars[${index}].value`} label="Value" errors={errors}>{(attributes) => {
            const common = { ...attributes, class: "field", autocomplete: "off" as const, value: one.value, placeholder: keepsValue(one) ? "stored, not shown" : "", onInput: (event: { currentTarget: HTMLInputElement }) => change(index, { value: event.currentTarget.value }) };
            return one.secret ? <input {...common} type="password" /> : <input {...common} type="text" spellcheck={false} />;
          }}</Labelled>
          <label><input type="checkbox" checked={one.secret} onChange={(event) => change(index, { secret: event.currentTarget.checked })} /> secret</label>
          <button class="btn" type="button" onClick={() => set({ variables: values.variables.filter((_, at) => at !== index) })}>Remove<span class="vh"> variable {index + 1}</span></button>
        </div>
      ))}
      <GroupFault path="environmentVars" errors={errors} />
      <div><button class="btn" type="button" onClick={() => set({ variables: [...values.variables, { key: "", value: "", secret: true }] })}>Add a variable</button></div>
    </fieldset>
  );
}

function Registry({ setting, values, set, errors, isChange }: { setting: Setting } & Fields) {
  const stored = usePolled("credentials", 0, (signal) => get<Credential[]>(["container-registry-auths"], {}, signal));
  const change = (text: string) => set({ plain: { ...values.plain, [setting.name]: text } });
  const value = values.plain[setting.name] ?? "";
  const hint = <><Meaning setting={setting} isChange={isChange} />{can("view_tenant") ? <>. <a href={viewUrl("credentials")}>Credentials</a></> : null}</>;
  const isListed = value === "" || stored.data?.some((one) => String(one.id) === value);
  return (
    <Labelled path={setting.name} label="Credential of the registry" errors={errors} hint={hint}>
      {(attributes) => (
        <select {...attributes} class="field" value={value} onChange={(event) => change(event.currentTarget.value)}>
          <option value="">none</option>
          {isListed ? null : <option value={value}>credential {value}</option>}
          {(stored.data ?? []).map((one) => <option key={one.id} value={String(one.id)}>{one.name} ({one.id})</option>)}
        </select>
      )}
    </Labelled>
  );
}

function Rate({ values, set, errors, setting, isChange }: { setting: Setting } & Fields) {
  return (
    <fieldset class="group">
      <legend>Rate limit</legend>
      <p class="hint"><Meaning setting={setting} isChange={isChange} />.</p>
      <div class="row start">
        <Labelled path="rateLimit.perSecond" label="Starts per second" errors={errors}>{(attributes) => <input {...attributes} class="field" inputMode="decimal" placeholder="no limit" value={values.perSecond} onInput={(event) => set({ perSecond: event.currentTarget.value })} />}</Labelled>
        <Labelled path="rateLimit.burst" label="At once" errors={errors}>{(attributes) => <input {...attributes} class="field tiny" inputMode="numeric" value={values.burst} onInput={(event) => set({ burst: event.currentTarget.value })} />}</Labelled>
      </div>
      <GroupFault path="rateLimit" errors={errors} />
    </fieldset>
  );
}

function Retries({ values, set, errors, outcomes, delays }: { outcomes: Setting; delays: Setting } & Fields) {
  const usual = (outcomes.default ?? []) as string[];
  const words = outcomes.schema.items?.enum ?? usual;
  const chosen = values.retryOn ?? usual;
  const toggle = (word: string) => set({ retryOn: words.filter((one) => (one === word) !== chosen.includes(one)) });
  const usualDelays = Array.isArray(delays.default) ? delays.default.join(", ") : "";
  return (
    <>
      <fieldset class="group">
        <legend>Outcomes that are retried</legend>
        <div class="row">{words.map((word) => <label key={word}><input type="checkbox" checked={chosen.includes(word)} onChange={() => toggle(word)} /> {word}</label>)}</div>
        <GroupFault path="retryOn" errors={errors} />
      </fieldset>
      <Labelled path="retryDelaysSeconds" label="Retry delays" errors={errors} hint={<><Words text={delays.text} />; separated by commas</>}>{(attributes) => <input {...attributes} class="field" placeholder={usualDelays} value={values.retryDelays} onInput={(event) => set({ retryDelays: event.currentTarget.value })} />}</Labelled>
    </>
  );
}
