"""Receive webhooks with FastAPI. Start: uvicorn webhook_fastapi:app --port 9001."""

import os

from fastapi import FastAPI, HTTPException, Request

from queue_engine.client import InvalidWebhook, verify_webhook

app = FastAPI()


@app.post("/")
async def receive(request: Request) -> dict[str, str]:
    try:
        event = verify_webhook(request.headers, await request.body(), os.environ["WEBHOOK_SECRET"])
    except InvalidWebhook as error:
        raise HTTPException(401, str(error)) from None
    return {"received": event.user_task_id or event.id}
