"""Submit a task, wait for its output, and tell apart the ways in which it can fail."""

from queue_engine.client import Client, TaskFailed, TaskTimedOut, WaitTimeout

with Client() as client:
    task = client.endpoint("echo").submit({"text": "hi"}, path="/run", execution_timeout_seconds=60)
    try:
        print(task.result(timeout=600))
    except WaitTimeout as error:
        print(f"{error}; it goes on, and task.result() can be called again")
    except TaskTimedOut as error:
        print(f"the container was too slow: {error}")
    except TaskFailed as error:
        print(f"{error}, after {error.task.attempts} attempts")
