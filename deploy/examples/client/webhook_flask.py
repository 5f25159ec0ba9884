"""Receive webhooks with Flask. Start: flask --app webhook_flask run --port 9001."""

import os

from flask import Flask, abort, request

from queue_engine.client import InvalidWebhook, verify_webhook

app = Flask(__name__)


@app.post("/")
def receive() -> dict[str, str]:
    try:
        event = verify_webhook(dict(request.headers), request.get_data(), os.environ["WEBHOOK_SECRET"])
    except InvalidWebhook as error:
        abort(401, str(error))
    return {"received": event.user_task_id or event.id}
