// The form of an endpoint: its values as text, the body of the request, and the errors of the API beside their fields.

export interface Rule {
  type?: string;
  minimum?: number;
  maximum?: number;
  maxLength?: number;
  enum?: string[];
  items?: Rule;
}

/** A setting as the catalogue describes it. */
export interface Setting {
  name: string;
  /** Its name in views of an endpoint. */
  shown: string;
  text: string;
  required: boolean;
  fixed: boolean;
  /** True if a change replaces the workers. */
  renewsWorkers: boolean;
  default: unknown;
  schema: Rule;
}

export interface Resource {
  region: string;
  gpuType: string;
  gpuCount: string;
}

export interface Variable {
  key: string;
  value: string;
  secret: boolean;
  /** The name under which a value is stored, which the API does not return. */
  storedAs?: string;
}

export interface Values {
  /** The text of each setting that is a word, a number or text. Empty: the default. */
  plain: Record<string, string>;
  resources: Resource[];
  variables: Variable[];
  port: string;
  protocol: string;
  perSecond: string;
  burst: string;
  /** The outcomes that are retried; null: the default. */
  retryOn: string[] | null;
  /** Seconds, separated by commas. */
  retryDelays: string;
}

export type Body = Record<string, unknown>;

/** Settings whose values have a structure, which have fields of their own. */
const STRUCTURED = new Set(["resources", "environmentVars", "expose", "rateLimit", "retryOn", "retryDelaysSeconds"]);
const NUMBER = /^[+-]?\d+(?:\.\d+)?$/;

export function plainSettings(settings: readonly Setting[]): Setting[] {
  return settings.filter((one) => !STRUCTURED.has(one.name));
}

/** Return the form of a body, such as that of a template. */
export function valuesOf(body: Body, settings: readonly Setting[]): Values {
  const plain: Record<string, string> = {};
  for (const { name } of plainSettings(settings)) if (body[name] !== undefined && body[name] !== null) plain[name] = String(body[name]);
  const resources = (body["resources"] ?? []) as { region: string; gpuType: string; gpuCount: number }[];
  const variables = (body["environmentVars"] ?? []) as { key: string; value?: string; secret?: boolean }[];
  const expose = body["expose"] as { port: number; protocol: string } | null | undefined;
  const rate = body["rateLimit"] as { perSecond: number; burst: number } | null | undefined;
  const delays = body["retryDelaysSeconds"] as number[] | undefined;
  return {
    plain,
    resources: resources.map((one) => ({ ...one, gpuCount: String(one.gpuCount) })),
    variables: variables.map(({ key, value, secret }) => (value === undefined ? { key, value: "", secret: secret !== false, storedAs: key } : { key, value, secret: secret !== false })),
    port: expose ? String(expose.port) : "",
    protocol: expose?.protocol.toLowerCase() ?? "http",
    perSecond: rate ? String(rate.perSecond) : "",
    burst: rate ? String(rate.burst) : "",
    retryOn: (body["retryOn"] as string[] | undefined) ?? null,
    retryDelays: delays?.join(", ") ?? "",
  };
}

/** Return the body of the request. What cannot be a number stays text, so that the API says which rule it breaks. */
export function bodyOf(values: Values, settings: readonly Setting[]): Body {
  const body: Body = {};
  for (const one of settings) {
    const value = STRUCTURED.has(one.name) ? structured(one.name, values) : plainValue(values.plain[one.name] ?? "", one);
    if (value !== undefined) body[one.name] = value;
  }
  return body;
}

/** Return the body as it is shown: values of secret variables are masked. */
export function shownBody(body: Body): Body {
  const variables = body["environmentVars"] as Variable[] | undefined;
  if (variables === undefined) return body;
  return { ...body, environmentVars: variables.map((one) => (one.secret === false || one.value === undefined ? one : { ...one, value: "***" })) };
}

function plainValue(text: string, setting: Setting): unknown {
  if (text === "" && !setting.required) return undefined;
  return setting.schema.type === "integer" || setting.schema.type === "number" ? number(text) : text;
}

function structured(name: string, values: Values): unknown {
  switch (name) {
    case "resources": return values.resources.map((one) => ({ ...one, gpuCount: number(one.gpuCount) }));
    case "environmentVars": return values.variables.length === 0 ? undefined : values.variables.map(variable);
    case "expose": return values.port === "" ? undefined : { port: number(values.port), protocol: values.protocol };
    case "rateLimit": return values.perSecond === "" && values.burst === "" ? undefined : { perSecond: number(values.perSecond), burst: number(values.burst) };
    case "retryOn": return values.retryOn ?? undefined;
    default: return values.retryDelays.trim() === "" ? undefined : values.retryDelays.split(",").map((one) => number(one));
  }
}

/** Return true while the variable keeps its stored value: nothing is typed for it, and its name is the same. */
export function keepsValue({ key, value, storedAs }: Variable): boolean {
  return storedAs === key && value === "";
}

/** Return a variable as the API takes it. Without `value` it keeps its stored one. */
function variable(one: Variable): Body {
  return { key: one.key, ...(keepsValue(one) ? {} : { value: one.value }), ...(one.secret ? {} : { secret: false }) };
}

function number(text: string): number | string {
  const value = text.trim();
  return NUMBER.test(value) ? Number(value) : value;
}

export interface FieldErrors {
  /** The rules by the path of the field, such as `resources[0].gpuType`. */
  byField: Map<string, string>;
  /** What names no field of the form. */
  others: string;
}

/** Split the message of a refusal, `name: rule; workers: rule`, into the rules of the fields. */
export function fieldErrors(message: string, names: readonly string[]): FieldErrors {
  const known = new Set(names);
  const starts = [...message.matchAll(/(?:^|; )([A-Za-z][A-Za-z0-9]*)((?:\[\d+\]|\.[A-Za-z0-9]+)*): /g)].filter((one) => known.has(one[1]!));
  const byField = new Map<string, string>();
  starts.forEach((one, index) => {
    const text = message.slice(one.index + one[0].length, starts[index + 1]?.index);
    const path = one[1]! + one[2]!;
    byField.set(path, byField.has(path) ? `${byField.get(path)}; ${text}` : text);
  });
  return { byField, others: starts.length === 0 ? message : message.slice(0, starts[0]!.index) };
}

/** `1–1000; 5 by default`, the limits of a setting in words. */
export function limitsText({ schema, default: usual, required }: Setting): string {
  const { minimum, maximum, maxLength } = schema;
  const range = minimum !== undefined && maximum !== undefined ? `${minimum}–${maximum}` : maxLength !== undefined ? `at most ${maxLength} characters` : "";
  const otherwise = required ? "" : usual === null || usual === undefined ? "" : `${String(usual)} by default`;
  return [range, otherwise].filter(Boolean).join("; ");
}

/** The price of the workers for an hour; null if a price is not known. */
export function pricePerHour(values: Values, types: readonly { name: string; pricePerHour: number | null }[], storage: number | null): number | null {
  const first = values.resources[0];
  const price = types.find((one) => one.name === first?.gpuType)?.pricePerHour;
  if (first === undefined || price === null || price === undefined) return null;
  const gigabytes = Number(values.plain["containerVolumeInGb"] ?? 0);
  const sum = Number(values.plain["workers"] ?? 0) * (price * Number(first.gpuCount) + (storage ?? 0) * gigabytes);
  return Number.isFinite(sum) ? sum : null;
}
