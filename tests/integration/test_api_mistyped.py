"""A query parameter whose name is mistyped is refused by every operation that declares it, and others are ignored."""

from collections.abc import Iterator
from typing import Any

import pytest

from queue_engine.api.http.operations import Operation
from queue_engine.domain.principals import Right, Role
from queue_engine.store.api_keys import OPERATORS
from tests.api_server import TASK, RunningApi

PLACES = {"keyId": "0" * 16, "workerId": "7-91aa2c", "taskId": "first"}


def operations_with_a_query(api: RunningApi) -> Iterator[Operation]:
    for route in api.app.router.routes:
        if isinstance(route, Operation) and route.query_names:
            yield route


async def test_every_operation_refuses_a_mistyped_parameter(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await api.submit(endpoint_id, taskId="first")
    operators = {"X-Api-Key": await api.new_key(OPERATORS, role=Role.OPERATOR)}
    checked = list(operations_with_a_query(api))
    assert {"/v2/workers", "/v2/serverless", "/v2/serverless/{id}/errors", "/v2/audit", "/v2/search"} <= {
        one.path for one in checked
    }
    for one in checked:
        path = one.path.format_map({**PLACES, "id": endpoint_id})
        for name in sorted(one.query_names):
            wrong = f"{name[0].upper()}{name[1:]}"
            headers = operators if one.right is Right.MANAGE_TENANTS else {}
            answer = await api.client.request(one.method, path, params={wrong: "1"}, json=body_of(one), headers=headers)
            assert answer.status_code == 400, (one.method, one.path, wrong, answer.text)
            meant = f"{wrong}: is not a parameter of this request; did you mean {name}?"
            assert answer.json()["message"] == meant, (one.method, one.path)


async def test_other_unknown_parameters_are_ignored(api: RunningApi) -> None:
    await api.create_endpoint()
    for path in ("/v2/workers", "/v2/serverless", "/v2/destinations", "/v2/templates"):
        answer = await api.client.get(path, params={"traceparent": "x", "é" * 100: "y"})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "name", "meant"),
    [
        ("/v2/serverless/{id}/deliveries", "page", "pageNumber"),
        ("/v2/serverless/{id}/deliveries", "size", "pageSize"),
        ("/v2/serverless/{id}/tasks", "number", "pageNumber"),
        ("/v2/serverless/{id}/tasks", "created", "createdAfter"),
        ("/v2/operations", "pgae", "pageNumber"),
        ("/v2/operations", "limit", "pageSize"),
        ("/v2/operations", "offset", "pageNumber"),
        ("/v2/serverless/{id}/logs", "frm", "startTime"),
        ("/v2/serverless/{id}/logs", "limt", "pageSize"),
        ("/v2/serverless/{id}/logs", "start", "startTime"),
        ("/v2/serverless/{id}/logs", "until", "endTime"),
    ],
)
async def test_a_part_of_a_name_and_a_name_of_another_api_are_refused(
    api: RunningApi, path: str, name: str, meant: str
) -> None:
    """The response of a list calls the number `page`, so `page=2` would get the first page forever."""
    answer = await api.client.get(path.format(id=await api.create_endpoint()), params={name: "2"})
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        f"{name}: is not a parameter of this request; did you mean {meant}?",
    )


async def test_only_the_first_unknown_names_are_compared(api: RunningApi) -> None:
    """Each costs time in which the API serves no other request."""
    others = {f"other{number}": "1" for number in range(10)}
    assert (await api.client.get("/v2/workers", params={**others, "pgaeSize": "1"})).status_code == 200
    others.popitem()
    assert (await api.client.get("/v2/workers", params={**others, "pgaeSize": "1"})).status_code == 400


async def test_a_request_without_a_key_learns_nothing_about_parameters(api: RunningApi) -> None:
    answer = await api.client.get("/v2/workers", params={"PageSize": "1"}, headers={"X-Api-Key": "unknown"})
    assert answer.status_code == 401


def body_of(one: Operation) -> dict[str, Any] | None:
    if one.method in ("GET", "DELETE"):
        return None
    return {"tasks": [TASK]} if one.path.endswith("/batch") else TASK
