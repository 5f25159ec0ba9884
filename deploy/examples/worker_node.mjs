// A worker in Node: a ready path, cancellation, and no second computation for a repeated task.
//
// The requests are those of worker_plain.py. Needs no package. Listens on 127.0.0.1:$PORT (8000).

import { createServer } from "node:http";
import { setTimeout as wait } from "node:timers/promises";

const MAX_BODY_BYTES = 1024 * 1024;
const MAX_RUNS = 1000; // results that are kept for repeats; a service of several workers keeps them in a database
const runs = new Map(); // by task id: { controller, result }
let loaded = false;

async function loadModel() {
  loaded = true; // stands for the minutes in which a real model is read into memory
}

async function compute({ text, seconds = 0 }, signal) {
  await wait(seconds * 1000, undefined, { signal });
  return { text: text.toUpperCase() };
}

function run(taskId, input) {
  if (!runs.has(taskId)) {
    const controller = new AbortController();
    const result = compute(input, controller.signal);
    result.catch(() => runs.delete(taskId)); // so that a later attempt computes it
    runs.set(taskId, { controller, result });
    if (runs.size > MAX_RUNS) runs.delete(runs.keys().next().value);
  }
  return runs.get(taskId).result;
}

async function bodyOf(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MAX_BODY_BYTES) throw new RangeError(`the body must be at most ${MAX_BODY_BYTES} bytes`);
    chunks.push(chunk);
  }
  return JSON.parse(Buffer.concat(chunks).toString());
}

async function respondTo(request) {
  const called = `${request.method} ${request.url}`;
  if (called === "GET /ready") return [loaded ? 200 : 503, { loaded }];
  if (called === "POST /cancel") {
    runs.get((await bodyOf(request)).taskId)?.controller.abort();
    return [200, {}];
  }
  if (called !== "POST /run") return [404, { error: "no such path" }];
  const input = await bodyOf(request);
  if (typeof input?.text !== "string") return [400, { error: "input.text: must be a string" }];
  try {
    return [200, await run(request.headers["x-task-id"], input)];
  } catch (error) {
    if (error.name === "AbortError") return [409, { error: "cancelled" }];
    throw error;
  }
}

const server = createServer(async (request, response) => {
  const [status, content] = await respondTo(request).catch((error) => [400, { error: error.message }]);
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(content));
});
server.keepAliveTimeout = 60_000; // the agent closes its connections first, after 1.5 s without a request
server.listen(Number(process.env.PORT ?? 8000), "127.0.0.1");
loadModel();
