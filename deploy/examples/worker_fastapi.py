"""A worker in FastAPI: a ready path, cancellation, and no second computation for a repeated task.

The requests are those of `worker_plain.py`. Needs `pip install fastapi uvicorn`. Listens on 127.0.0.1:$PORT (8000).
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

MAX_RUNS = 1000
"""Results that are kept for repeats. A service of several workers keeps them in a database."""

runs: OrderedDict[str, asyncio.Task[dict[str, Any]]] = OrderedDict()
loaded = asyncio.Event()


class Input(BaseModel):
    """The task's `input`. FastAPI responds 422 to any other, which fails the task with that text."""

    text: str
    seconds: float = 0


class Cancelled(BaseModel):
    task_id: Annotated[str, Field(alias="taskId")]


async def load_model() -> None:
    """Stand for the minutes in which a real model is read into memory."""
    loaded.set()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    loading = asyncio.create_task(load_model())
    yield
    loading.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready() -> dict[str, bool]:
    if not loaded.is_set():
        raise HTTPException(503, "the model is being loaded")
    return {"loaded": True}


@app.post("/run")
async def run(given: Input, x_task_id: Annotated[str, Header()]) -> dict[str, Any]:
    if x_task_id not in runs:
        runs[x_task_id] = asyncio.create_task(compute(given))
        runs[x_task_id].add_done_callback(lambda done: forget_without_output(x_task_id, done))
        while len(runs) > MAX_RUNS:
            runs.popitem(last=False)
    run = runs[x_task_id]
    try:
        # Shielded, because a lost connection must not end the run that a repeat of the task waits for.
        return await asyncio.shield(run)
    except asyncio.CancelledError:
        if not run.cancelled():
            raise
        raise HTTPException(409, "cancelled") from None


@app.post("/cancel")
async def cancel(cancelled: Cancelled) -> dict[str, Any]:
    if cancelled.task_id in runs:
        runs[cancelled.task_id].cancel()
    return {}


def forget_without_output(task_id: str, done: asyncio.Task[dict[str, Any]]) -> None:
    """Forget a run that was cancelled or has failed, so that a later attempt computes it."""
    if done.cancelled() or done.exception() is not None:
        runs.pop(task_id, None)


async def compute(given: Input) -> dict[str, Any]:
    """Do the work. Blocking code belongs into `asyncio.to_thread`, or /ready does not respond during it."""
    await asyncio.sleep(given.seconds)
    return {"text": given.text.upper()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
