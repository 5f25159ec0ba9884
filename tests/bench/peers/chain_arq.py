"""The jobs behind `submit_fastapi_arq.py`, in two processes: POST to the container, then deliver the signed result.

`chain_arq.py run|deliver REDIS_URL`
"""

import asyncio
import json
import sys

import httpx
import httpx_aiohttp
from arq import Retry, Worker
from arq.connections import RedisSettings
from signing import signed_headers

role, redis_url = sys.argv[1:]
DELIVERIES = "deliveries"


async def run(context, payload, port, path, webhook):
    output = (await context["client"].post(f"http://127.0.0.1:{port}{path}", json=payload)).json()
    await context["redis"].enqueue_job("deliver", context["job_id"], output, webhook, _queue_name=DELIVERIES)
    return output


async def deliver(context, job_id, output, webhook):
    body = json.dumps({"task_id": job_id, "status": "Success", "result": output}).encode()
    response = await context["client"].post(webhook, content=body, headers=signed_headers(job_id, body))
    if response.status_code >= 300:
        raise Retry(defer=5)


async def startup(context):
    transport = httpx_aiohttp.AiohttpTransport() if role == "run" else None
    context["client"] = httpx.AsyncClient(transport=transport, trust_env=False)


async def main():
    worker = Worker(
        [run if role == "run" else deliver],
        queue_name="arq:queue" if role == "run" else DELIVERIES,
        redis_settings=RedisSettings.from_dsn(redis_url),
        max_jobs=64,
        on_startup=startup,
        handle_signals=False,
        poll_delay=0.01,
        queue_read_limit=1000,
    )
    await worker.async_run()


asyncio.run(main())
