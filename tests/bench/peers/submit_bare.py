"""The limit of the submit route: bare Starlette that stores a task with one script call.

The script writes what the engine's own writes: the task, its body, the queue, the counts and the index. `REDIS_URL`
is set.
"""

import os
import uuid

import orjson
import redis.asyncio as redis
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

store = redis.Redis.from_url(os.environ["REDIS_URL"])
enqueue = store.register_script("""
redis.call('HSET', KEYS[1], 'state', 'queued', 'attempts', 0, 'lost', 0, 'created', ARGV[2], 'print', ARGV[2],
  'number', 1)
redis.call('SET', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], '*', 't', ARGV[2])
redis.call('HINCRBY', KEYS[4], 'queued', 1)
redis.call('ZADD', KEYS[5], 1, ARGV[2])
return 'OK'
""")


async def submit(request):
    body = await request.body()
    orjson.loads(body)
    task = uuid.uuid4().hex
    await enqueue(keys=[f"t:{task}", f"b:{task}", "queue", "counts", "live"], args=[body, task])
    content = orjson.dumps({"message": "success", "code": 10000, "data": {"taskId": task}})
    return Response(content, media_type="application/json")


app = Starlette(routes=[Route("/v2/serverless/{endpoint}/tasks", submit, methods=["POST"])])
