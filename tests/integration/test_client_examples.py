"""The webhook receivers among the client's examples, each called through its framework."""

import base64
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from time import time

import httpx
import pytest

from queue_engine.crypto.signing import signature_headers

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "client"
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
BODY = json.dumps({"user_task_id": "t1", "success": True}).encode()

Answer = tuple[int, bytes]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("DJANGO_SECRET_KEY", "key")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "webhook_django")


def signed(body: bytes) -> dict[str, str]:
    return signature_headers([SECRET], "msg_1", int(time()), body)


async def by_fastapi(headers: Mapping[str, str], body: bytes) -> Answer:
    transport = httpx.ASGITransport(app=import_module("webhook_fastapi").app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        response = await client.post("/", headers=headers, content=body)
    return response.status_code, response.content


async def by_flask(headers: Mapping[str, str], body: bytes) -> Answer:
    response = import_module("webhook_flask").app.test_client().post("/", headers=dict(headers), data=body)
    return response.status_code, response.data


async def by_django(headers: Mapping[str, str], body: bytes) -> Answer:
    import django
    from django.test import AsyncClient

    django.setup()
    client = AsyncClient(enforce_csrf_checks=True)
    response = await client.post("/", body, content_type="application/json", headers={"host": "127.0.0.1", **headers})
    return response.status_code, response.content


@pytest.mark.parametrize("send", [by_fastapi, by_flask, by_django])
async def test_a_receiver_accepts_what_the_engine_signed_and_nothing_else(send) -> None:  # type: ignore[no-untyped-def]
    status, body = await send(signed(BODY), BODY)
    assert (status, json.loads(body)) == (200, {"received": "t1"})
    status, body = await send(signed(BODY), BODY + b" ")
    assert status == 401
    assert b"webhook-signature is missing or wrong" in body
    assert (await send({}, BODY))[0] == 401
