// A webhook receiver that accepts only what is signed. Needs no package.
//
// WEBHOOK_SECRET: the endpoint's signing secret, whsec_…   WEBHOOK_AUTH_KEY: the tasks' webhookAuthKey, if any
// PORT: where to listen on 127.0.0.1, 9000 by default
//
// Prints one line for each new event and responds 204, also to types of events that it does not know. Responds 401 to a
// request that is not genuine, and 500 when an event could not be handled: the engine sends it again later.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const MAX_BODY_BYTES = 1024 * 1024;
const MAX_HANDLED = 10_000;
const TOLERANCE_SECONDS = 300;
const handled = new Set(); // the latest webhook-ids: a delivery may come twice with the same id, also at the same time
const underWay = new Map(); // the promises of the events that are being handled, by webhook-id

function same(given, expected) {
  const [a, b] = [Buffer.from(given ?? ""), Buffer.from(expected)];
  return a.length === b.length && timingSafeEqual(a, b); // in constant time
}

// Return why the request is not genuine; undefined when it is.
function faultOf(headers, body, { secret, authKey, now }) {
  if (authKey !== undefined && !same(headers["x-api-key"], authKey)) return "X-API-Key is missing or wrong";
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(timestamp) || Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) {
    return "webhook-timestamp is missing, or differs too much from the current time";
  }
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const hmac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body); // the bytes as they came
  const expected = `v1,${hmac.digest("base64")}`;
  // While a secret is being replaced there may be several signatures.
  const given = (headers["webhook-signature"] ?? "").split(" ");
  return given.some((one) => same(one, expected)) ? undefined : "webhook-signature is missing or wrong";
}

// Do something with the event. Long work belongs into a queue of your own: the engine waits 15 s.
async function handle(event) {
  if (event.type === undefined) {
    console.log(`task ${event.user_task_id}: ${event.status}`, JSON.stringify(event.result ?? null));
  } else if (event.type === "worker.status") console.log(`worker ${event.workerId}: ${event.status}`);
  else if (event.type === "webhook.test") console.log(`test: ${event.message}`);
  else console.log(`ignored: ${event.type}`); // of a later version of the engine
}

// Handle the event unless this was done for its id. After an exception it is still to be handled.
async function once(id, body) {
  while (underWay.has(id)) await underWay.get(id).catch(() => {});
  if (handled.has(id)) return;
  const running = (async () => handle(JSON.parse(body)))();
  underWay.set(id, running);
  try {
    await running;
    handled.add(id);
    if (handled.size > MAX_HANDLED) handled.delete(handled.values().next().value);
  } finally {
    underWay.delete(id);
  }
}

async function bodyOf(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MAX_BODY_BYTES) break;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

if (!process.env.WEBHOOK_SECRET) {
  console.error("WEBHOOK_SECRET is required: the endpoint's signing secret, whsec_…");
  process.exit(1);
}
const port = Number(process.env.PORT ?? 9000);
const server = createServer(async (request, response) => {
  const body = await bodyOf(request);
  const known = {
    secret: process.env.WEBHOOK_SECRET,
    authKey: process.env.WEBHOOK_AUTH_KEY,
    now: Date.now() / 1000,
  };
  const fault = faultOf(request.headers, body, known);
  if (fault !== undefined) {
    console.log(`refused: ${fault}`);
    response.writeHead(401).end();
    return;
  }
  try {
    await once(request.headers["webhook-id"], body);
    response.writeHead(204).end();
  } catch (error) {
    console.error(error);
    response.writeHead(500).end();
  }
});
server.on("error", (error) => {
  console.error(`cannot listen on 127.0.0.1:${port}: ${error.code}`);
  process.exit(1);
});
server.listen(port, "127.0.0.1");
