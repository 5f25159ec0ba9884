"""Run a task for each of 10,000 inputs, with a progress bar. Interrupt it and start it again: it goes on from there."""

from queue_engine.client import Client

with Client() as client:  # QUEUE_ENGINE_URL, QUEUE_ENGINE_API_KEY
    echo = client.endpoint("echo")
    inputs = [{"text": f"input {number}"} for number in range(10_000)]
    failed = 0
    try:
        for item in echo.map(inputs, path="/run", batch_id="numbers_1", progress=True):
            failed += item.error is not None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the next start goes on from here") from None
    print(f"{len(inputs)} inputs, {failed} failed")
