"""The container and the webhook receiver: echoes bodies at /run, counts those at /hook, notes how old each request is.

A body `{"sent_ns": …}` has the sender's CLOCK_MONOTONIC, which all processes of a machine share. `GET /stats` returns
the counts and ages since the last `GET /reset`, `GET /last` the last body at /hook. Runs in one process, so that it has
one count.
"""

import json
import time

state = {"runs": 0, "hooks": 0, "ages_ms": [], "last": b"{}"}


async def app(scope, receive, send):
    """ASGI application."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    arrived_ns = time.monotonic_ns()
    body = await read(receive)
    content = respond(scope["path"], body, arrived_ns)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"].endswith("shutdown"):
            return


async def read(receive):
    message = await receive()
    body = message.get("body", b"")
    if not message.get("more_body"):
        return body
    pieces = [body]
    while message.get("more_body"):
        message = await receive()
        pieces.append(message.get("body", b""))
    return b"".join(pieces)


def respond(path, body, arrived_ns):
    if path == "/hook":
        state["hooks"] += 1
        state["last"] = body
        return b"{}"
    if path == "/stats":
        return json.dumps({name: state[name] for name in ("runs", "hooks", "ages_ms")}).encode()
    if path == "/reset":
        state.update(runs=0, hooks=0, ages_ms=[])
        return b"{}"
    if path == "/last":
        return state["last"]
    state["runs"] += 1
    if body.startswith(b'{"sent_ns"'):
        state["ages_ms"].append((arrived_ns - json.loads(body)["sent_ns"]) / 1e6)
    return body
