// Changes of an endpoint's settings: what was typed against what is stored, the request, and what others have changed.

import type { Worker } from "./api.ts";
import { type Body, bodyOf, type Setting, type Values, valuesOf, type Variable } from "./new-endpoint.ts";

/** The settings of an endpoint as they are stored. */
export interface Stored {
  values: Values;
  body: Body;
  /** When the endpoint was changed last. */
  at: number;
}

export interface Change {
  setting: Setting;
  before: unknown;
  after: unknown;
  /** True if the setting is cleared, which restores its default. */
  isCleared: boolean;
}

/** The form of the settings. */
export interface Editing {
  values: Values;
  /** What is stored under the typed values. */
  base: Body;
  at: number;
  /** What others have changed since something was typed. */
  theirs: Change[];
}

/** Return the settings of a view of an endpoint. */
export function storedOf(view: object, settings: readonly Setting[]): Stored {
  const members = view as Body;
  const values = valuesOf(Object.fromEntries(settings.map((one) => [one.name, members[one.shown]])), settings);
  return { values, body: bodyOf(values, settings), at: members["updatedAt"] as number };
}

export function editingOf({ values, body, at }: Stored): Editing {
  return { values, base: body, at, theirs: [] };
}

/** Return the settings that differ. A setting that is empty has its default. */
export function changesOf(after: Body, before: Body, settings: readonly Setting[]): Change[] {
  return settings
    .filter((one) => !one.fixed)
    .map((setting) => ({ setting, before: valueOf(before, setting), after: valueOf(after, setting), isCleared: after[setting.name] === undefined }))
    .filter((one) => !isSame(one.before, one.after));
}

/** Return the body of the request: the settings that are changed, and null for those that are cleared. */
export function patchOf(typed: Body, changes: readonly Change[]): Body {
  return Object.fromEntries(changes.map(({ setting: { name } }) => [name, typed[name] ?? (name === "environmentVars" ? [] : null)]));
}

/** Return the names of variables whose values must be typed again, because a value is stored under the former name only. */
export function valuesNeeded(values: Values): string[] {
  return values.variables.filter((one) => one.storedAs !== undefined && one.storedAs !== one.key && one.value === "").map((one) => one.key);
}

/** Return true if others may have changed values that the person changes too. Stored values are never shown, so the time tells it. */
export function mayClash(form: Editing, latest: Stored, changes: readonly Change[]): boolean {
  return latest.at > form.at && changes.some((one) => one.setting.name === "environmentVars");
}

/** Return the form after the endpoint was changed by somebody else: settings that were not typed follow. */
export function followed(form: Editing, latest: Stored, settings: readonly Setting[]): Editing {
  const mine = changesOf(bodyOf(form.values, settings), form.base, settings).map((one) => one.setting.name);
  if (mine.length === 0) return editingOf(latest);
  const values = settings.filter((one) => !mine.includes(one.name)).reduce((held, one) => taken(held, latest.values, one.name), form.values);
  const first = form.theirs.reduce<Body>((body, one) => ({ ...body, [one.setting.name]: one.before }), form.base);
  return { values, base: latest.body, at: latest.at, theirs: changesOf(latest.body, first, settings) };
}

/** Return the names of settings that both the person and somebody else have changed. */
export function clashes(form: Editing, latest: Stored, settings: readonly Setting[]): string[] {
  const mine = changesOf(bodyOf(form.values, settings), form.base, settings).map((one) => one.setting.name);
  return changesOf(latest.body, form.base, settings).map((one) => one.setting.name).filter((name) => mine.includes(name));
}

/** Return the workers that a change replaces: those that the engine has started, if there will still be so many. */
export function workersReplaced<W extends Pick<Worker, "workerId" | "status">>(endpoint: { id: string; status: string; totalWorkers: number }, workers: readonly W[]): W[] {
  if (endpoint.status === "STOPPED" || endpoint.status === "STOPPING" || endpoint.totalWorkers === 0) return [];
  return workers.filter((one) => one.workerId.startsWith(`${endpoint.id}-`) && one.status !== "STOPPING" && one.status !== "STOPPED");
}

/** `8000, http`: a value in words. Values of variables are not in it. */
export function settingText(name: string, value: unknown): string {
  if (value === null || value === undefined) return "none";
  switch (name) {
    case "resources": return (value as { region: string; gpuType: string; gpuCount: unknown }[]).map((one) => `${one.gpuCount} × ${one.gpuType} in ${one.region}`).join("; ");
    case "environmentVars": return (value as Variable[]).map((one) => one.key).join(", ") || "none";
    case "expose": return `${(value as { port: unknown }).port}, ${(value as { protocol: string }).protocol}`;
    case "rateLimit": return `${(value as { perSecond: unknown }).perSecond} a second, ${(value as { burst: unknown }).burst} at once`;
    default: return Array.isArray(value) ? value.join(", ") || "none" : value === "" ? "empty" : String(value);
  }
}

/** `A: new value; B: removed`, the difference of the environment without its values. */
export function variablesText(before: unknown, after: unknown): string {
  const old = new Map(((before ?? []) as Variable[]).map((one) => [one.key, one]));
  const next = ((after ?? []) as Variable[]);
  const told = next.flatMap((one) => {
    const former = old.get(one.key);
    const isSecretAsBefore = former?.secret === one.secret;
    if (former !== undefined && one.value === undefined && isSecretAsBefore) return [];
    const word = former === undefined ? "added" : one.value === undefined ? "keeps its value" : "new value";
    return [`${one.key || "?"}: ${word}${one.secret === false ? ", not secret" : isSecretAsBefore || former === undefined ? "" : ", secret"}`];
  });
  const removed = [...old.keys()].filter((key) => !next.some((one) => one.key === key)).map((key) => `${key}: removed`);
  return [...told, ...removed].join("; ");
}

function valueOf(body: Body, setting: Setting): unknown {
  return body[setting.name] ?? setting.default ?? null;
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** Return the form with one setting of another. */
function taken(values: Values, from: Values, name: string): Values {
  switch (name) {
    case "resources": return { ...values, resources: from.resources };
    case "environmentVars": return { ...values, variables: from.variables };
    case "expose": return { ...values, port: from.port, protocol: from.protocol };
    case "rateLimit": return { ...values, perSecond: from.perSecond, burst: from.burst };
    case "retryOn": return { ...values, retryOn: from.retryOn };
    case "retryDelaysSeconds": return { ...values, retryDelays: from.retryDelays };
    default: return { ...values, plain: { ...values.plain, [name]: from.plain[name] ?? "" } };
  }
}
