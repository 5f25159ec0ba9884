"""The limit of deliveries: bare aiohttp POSTs one body, without a queue, a signature, a retry or a record.

`deliver_aiohttp.py HOOK_URL COUNT WARM_UP CONCURRENCY BODY_FILE`
"""

import asyncio
import sys
from pathlib import Path

import aiohttp
import uvloop
from common import Clock

hook_url, count, warm_up, concurrency, body_file = sys.argv[1:]


async def main():
    body = Path(body_file).read_bytes()
    numbers, clock = iter(range(int(count))), Clock(int(count), int(warm_up))
    connector = aiohttp.TCPConnector(limit=int(concurrency))
    headers = {"content-type": "application/json"}

    async def lane():
        for _ in numbers:
            async with session.post(hook_url, data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            clock.job_ended()

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(lane() for _ in range(int(concurrency))))


uvloop.run(main())
