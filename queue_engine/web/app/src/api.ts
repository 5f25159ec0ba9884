// Calls of the API. Each returns `data` of the envelope, or throws an ApiError.

import { signal } from "@preact/signals";
import type { components } from "./schema.d.ts";
import { apiUrl, sessionHeaders, SESSION_URL } from "./place.ts";
import { split } from "./scan.ts";

export type Schemas = components["schemas"];
export type Endpoint = Schemas["EndpointView"];
export type Task = Schemas["TaskView"];
export type Attempt = Schemas["AttemptView"];
export type DeliveryAttempt = Schemas["DeliveryAttemptView"];
export type Worker = Schemas["WorkerView"];
export type Me = Schemas["MeView"];
export type Counts = Schemas["TaskCountsView"];
export type Waiting = Schemas["WaitingView"];
export type Template = Schemas["TemplateView"];
export type Operation = Schemas["OperationView"];

/** A request that was refused, or that got no response (`status` 0). */
export class ApiError extends Error {
  constructor(readonly status: number, message: string, readonly retryAfter: number | null = null) {
    super(message);
  }
  /** True when the same request may work a little later. */
  get passes(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 502;
  }
}

/** True after a request that found no session. */
export const isLoggedOut = signal(false);
/** Why the API or its store cannot be used now; null while it can. */
export const outage = signal<string | null>(null);

const SECONDS = 20;

export async function get<T>(parts: (string | number)[], query?: Record<string, string | number | undefined>, signal?: AbortSignal): Promise<T> {
  return parsed<T>(await request("GET", apiUrl(parts, query), undefined, signal));
}

export async function send<T>(method: "POST" | "PUT" | "PATCH" | "DELETE", parts: (string | number)[], body?: string, query?: Record<string, string | number | undefined>, heldSeconds = 0): Promise<T> {
  return parsed<T>(await request(method, apiUrl(parts, query), body, undefined, heldSeconds));
}

/** An object, and the tag of the version that was read. */
export interface Tagged<T> {
  data: T;
  tag: string;
}

export async function getTagged<T>(parts: (string | number)[]): Promise<Tagged<T>> {
  const { text, tag } = await exchange("GET", apiUrl(parts), {});
  return { data: parsed<T>(text), tag };
}

/** Change an object that still is as it was read. Throws an ApiError of status 412 if it was changed since. */
export async function patch<T>(parts: (string | number)[], body: string, tag: string): Promise<T> {
  return parsed<T>((await exchange("PATCH", apiUrl(parts), { body, headers: { "If-Match": tag } })).text);
}

export interface TaskDetail {
  task: Omit<Schemas["TaskDetailView"], "input" | "output" | "inputHead" | "outputHead">;
  /** The text that was submitted, or its beginning. */
  input: string;
  isInputCut: boolean;
  output: string | null;
  isOutputCut: boolean;
}

/** Of a longer input or output only the beginning is read. */
const MAX_READ_BYTES = 1024 * 1024;

/**
 * Read a task. Its input and output stay the text that was submitted and returned. Most are no longer than a head. Beside a
 * long output the input is read as a file, which is its text; beside a long input the output is not, because a file of it may
 * be decoded.
 */
export async function getTask(endpoint: string, task: string, signal?: AbortSignal): Promise<TaskDetail> {
  const path = ["serverless", endpoint, "tasks", task];
  const { inputHead, outputHead, ...values } = await get<Schemas["TaskDetailView"]>(path, { payload: "head" }, signal);
  const isInputCut = inputHead?.isCut === true;
  const isOutputCut = outputHead?.isCut === true;
  const beginning = { task: values, input: inputHead?.text ?? "null", isInputCut, output: notNull(outputHead?.text), isOutputCut };
  if (!(isInputCut || isOutputCut) || (isInputCut && values.inputBytes > MAX_READ_BYTES)) return beginning;
  if ((values.outputBytes ?? 0) <= MAX_READ_BYTES) return getWhole(path, signal);
  if (!isInputCut) return beginning;
  return { ...beginning, input: await request("GET", apiUrl([...path, "input"]), undefined, signal), isInputCut: false };
}

async function getWhole(path: string[], signal?: AbortSignal): Promise<TaskDetail> {
  const text = await request("GET", apiUrl(path), undefined, signal);
  const { texts } = split(text, ["data"]);
  const { values, texts: payload } = split(texts["data"] ?? "{}", ["input", "output"]);
  return { task: values as TaskDetail["task"], input: payload["input"] ?? "null", isInputCut: false, output: notNull(payload["output"]), isOutputCut: false };
}

function notNull(text: string | undefined): string | null {
  return text === undefined || text === "null" ? null : text;
}

const DOWNLOAD_SECONDS = 600;

/** Read a file, and its name. */
export async function getFile(parts: (string | number)[]): Promise<{ blob: Blob; name: string }> {
  const { blob, disposition } = await exchange("GET", apiUrl(parts), { wait: DOWNLOAD_SECONDS, isFile: true });
  return { blob, name: /filename="([\w.-]+)"/.exec(disposition)?.[1] ?? "file" };
}

/** Log in by a key or by the token of a link. Return this origin's half of the session. */
export async function logIn(given: { apiKey: string } | { login: string }): Promise<string> {
  return parsed<{ session: string }>(await request("POST", SESSION_URL, JSON.stringify(given))).session;
}

export async function logOut(everywhere: boolean): Promise<void> {
  await request("DELETE", `${SESSION_URL}${everywhere ? "?everywhere=true" : ""}`);
}

async function request(method: string, url: string, body?: string, signal?: AbortSignal, wait = 0): Promise<string> {
  return (await exchange(method, url, { body, signal, wait })).text;
}

interface Sent {
  body?: string | undefined;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  wait?: number;
  /** True if the response is kept as a `blob`, and not read as text. */
  isFile?: boolean;
}

interface Received {
  text: string;
  blob: Blob;
  tag: string;
  disposition: string;
}

async function exchange(method: string, url: string, { body, headers: more = {}, signal, wait = 0, isFile = false }: Sent): Promise<Received> {
  const headers: Record<string, string> = { ...sessionHeaders(), ...more };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout((SECONDS + wait) * 1000);
  let response: Response;
  let text = "";
  let blob = new Blob();
  try {
    response = await fetch(url, {
      method, headers, body: body ?? null, cache: "no-store", credentials: "same-origin", redirect: "error",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    if (isFile && response.ok) blob = await response.blob();
    else text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    outage.value = "The API does not respond.";
    throw new ApiError(0, limit.aborted ? `no response within ${SECONDS + wait} s` : "the API does not respond");
  }
  if (response.ok) {
    outage.value = null;
    return { text, blob, tag: response.headers.get("ETag") ?? "*", disposition: response.headers.get("Content-Disposition") ?? "" };
  }
  const error = refusal(response, text);
  // A late response to a session that was replaced says nothing about the session of now.
  if (error.status === 401 && url !== SESSION_URL && headers["X-Console-Session"] === sessionHeaders()["X-Console-Session"]) isLoggedOut.value = true;
  throw error;
}

function refusal(response: Response, text: string): ApiError {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const error = new ApiError(response.status, messageIn(text) ?? `HTTP ${response.status}`, retryAfter);
  if (response.status === 503) outage.value = error.message;
  return error;
}

function messageIn(text: string): string | null {
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    return typeof message === "string" ? message : null;
  } catch {
    return null;
  }
}

function parsed<T>(text: string): T {
  return (JSON.parse(text) as { data: T }).data;
}
