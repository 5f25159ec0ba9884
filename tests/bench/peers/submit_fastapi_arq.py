"""A submit route in FastAPI that calls arq's `enqueue_job`. `REDIS_URL` is set."""

import os
from contextlib import asynccontextmanager

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app):
    app.state.pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]))
    yield


class Task(BaseModel):
    """The fields of a submission that the benchmark sends."""

    input: dict
    workerPort: int  # noqa: N815 - a field of the API
    processUri: str  # noqa: N815
    webhook: str | None = None


app = FastAPI(lifespan=lifespan)


@app.post("/v2/serverless/{endpoint}/tasks")
async def submit(endpoint: int, task: Task):
    job = await app.state.pool.enqueue_job("run", task.input, task.workerPort, task.processUri, task.webhook)
    return {"message": "success", "code": 10000, "data": {"taskId": job.job_id}}
