"""Tasks over HTTP: submit, read, list, count."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from queue_engine.domain.deliveries import AttemptAnswer, DeliverAgain, Delivered
from queue_engine.domain.tasks import Failed, Outcome, Succeeded
from tests.api_server import TASK, RunningApi, running_api
from tests.unit.test_webhooks import REFUSED_URLS


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url) as running:
        yield running


@pytest.fixture
async def endpoint_id(api: RunningApi) -> str:
    return await api.create_endpoint()
