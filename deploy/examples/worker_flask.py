"""A worker in Flask: a ready path, cancellation, and no second computation for a repeated task.

The requests are those of `worker_plain.py`, whose `Runs` it uses. Needs `pip install flask`. Listens on
127.0.0.1:$PORT (8000).
"""

import os
import threading
from typing import Any

from flask import Flask, request
from worker_plain import MAX_BODY_BYTES, Runs

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
runs = Runs()
loaded = threading.Event()


@app.get("/ready")
def ready() -> tuple[dict[str, Any], int]:
    return {"loaded": loaded.is_set()}, 200 if loaded.is_set() else 503


@app.post("/run")
def run() -> tuple[dict[str, Any], int]:
    given = request.get_json()
    try:
        text, seconds = str(given["text"]), float(given.get("seconds", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"error": "input: must be an object with text, and seconds if any"}, 400
    output = runs.run(request.headers["X-Task-Id"], text, seconds)
    return ({"error": "cancelled"}, 409) if output is None else (output, 200)


@app.post("/cancel")
def cancel() -> dict[str, Any]:
    runs.cancel(request.get_json()["taskId"])
    return {}


def load_model() -> None:
    """Stand for the minutes in which a real model is read into memory."""
    loaded.set()


if __name__ == "__main__":
    threading.Thread(target=load_model, daemon=True).start()
    app.run("127.0.0.1", int(os.environ.get("PORT", "8000")), threaded=True)
