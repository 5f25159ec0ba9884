"""Celery with a gevent pool of 64, requests, acknowledgement after the job, results in Redis."""

import os
import sys

if __name__ == "__main__" and sys.argv[1] == "work":
    from gevent import monkey

    monkey.patch_all()

import requests
from celery import Celery
from common import Clock, arguments, payload

given = arguments()
app = Celery("peer_celery", broker=given.redis_url, backend=given.redis_url)
app.conf.update(
    worker_prefetch_multiplier=4,
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    worker_redirect_stdouts=False,
)
clock = Clock(given.count, given.warm_up)
session = requests.Session()
session.trust_env = False
session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=64, pool_maxsize=64))


@app.task(name="run")
def run(payload):
    output = session.post(given.target_url, json=payload).json()
    if clock.job_ended():
        os._exit(0)
    return output


if given.verb == "enqueue":
    for _ in range(given.count):
        run.delay(payload(given))
else:
    options = ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["worker", "-P", "gevent", "-c", "64", *options])
