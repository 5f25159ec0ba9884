"""Each route that changes something makes one record in the audit log. The routes are read from the application."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from queue_engine.api.http.operations import DescribedRoute
from queue_engine.domain.audit import Action
from queue_engine.domain.destinations import DestinationNote, Standing
from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS
from queue_engine.store.standings import TenantNote
from tests.api_server import ENDPOINT, RunningApi
from tests.integration.test_api_deliveries import Results
from tests.integration.test_api_roles import ALB, CREDENTIAL, PUBLIC, routes_of

UNRECORDED = {
    **dict.fromkeys(("submit_task", "submit_batch", "clone_task"), "submissions are not recorded"),
    **dict.fromkeys(ALB - {"forward_get", "forward_head"}, "requests to workers are not recorded"),
    "wait_for_tasks": "changes nothing",
    "create_console_link": "gives no rights but those of its key, and is used once",
}
"""Routes with another method than GET and HEAD that make no record, with the reason."""
ELSEWHERE = {"test_webhook": "test_webhook_tests.py, because it needs a delivery process"}
HOOKS = "https://hooks.example.net:443"


@dataclass
class Made:
    """The things that the orders change."""

    api: RunningApi
    endpoint_id: str
    results: Results
    operator: str
    ids: dict[str, str]
    """Values of path parameters."""


@dataclass(frozen=True)
class Order:
    """A request that changes something."""

    action: Action
    body: Any = None
    prepare: Callable[[Made], Awaitable[object]] | None = None
    query: str = ""
    keeps: str | None = None
    """The path parameter that the id in the response is for."""
    by_operator: bool = False


async def end_a_task(made: Made) -> None:
    await made.results.give_up("b")
    made.ids["taskId"] = "b"


async def deliver(made: Made) -> None:
    await made.results.deliver()


async def give_up(made: Made) -> None:
    await made.results.give_up("c")


async def submit(made: Made) -> None:
    await made.api.submit(made.endpoint_id, taskId="a")


async def cancel(made: Made) -> None:
    await made.api.client.post(f"/v2/serverless/{made.endpoint_id}/tasks/a/cancel")


async def hold(made: Made) -> None:
    note = DestinationNote(HOOKS, Standing.PARKED, waiting=3)
    await made.api.store.standings.write("one", [TenantNote("default", note)])


async def start_worker(made: Made) -> None:
    made.ids["workerId"] = f"{made.endpoint_id}-{len(made.ids)}"
    await made.api.store.workers.put(made.endpoint_id, made.ids["workerId"], managed=True)


# In the order in which they are sent. A route that is missing here and above fails.
ORDERS: dict[str, Order] = {
    "create_endpoint": Order(Action.CREATE_ENDPOINT, ENDPOINT),
    "update_endpoint": Order(Action.UPDATE_ENDPOINT, {"name": "other"}),
    "scale_endpoint": Order(Action.SCALE_ENDPOINT, query="?count=4"),
    "scale_endpoint_by_path": Order(Action.SCALE_ENDPOINT),
    "restart_worker": Order(Action.RESTART_WORKER, prepare=start_worker),
    "drain_worker": Order(Action.DRAIN_WORKER, prepare=start_worker),
    "stop_endpoint": Order(Action.STOP_ENDPOINT),
    "start_endpoint": Order(Action.START_ENDPOINT),
    "pause_endpoint": Order(Action.PAUSE_ENDPOINT),
    "resume_endpoint": Order(Action.RESUME_ENDPOINT),
    "rotate_webhook_secret": Order(Action.ROTATE_WEBHOOK_SECRET),
    "cancel_task": Order(Action.CANCEL_TASK, prepare=submit),
    "retry_task": Order(Action.RETRY_TASK),
    "delete_task": Order(Action.DELETE_TASK, prepare=cancel),
    "retry_delivery": Order(Action.RETRY_DELIVERY, prepare=end_a_task),
    "redeliver_result": Order(Action.REDELIVER_RESULT, prepare=deliver),
    "recover_deliveries": Order(Action.RECOVER_DELIVERIES, {"since": 0}, prepare=give_up),
    "cancel_recovery": Order(Action.CANCEL_RECOVERY),
    "resume_destination": Order(Action.RESUME_DESTINATION, prepare=hold),
    "start_operation": Order(Action.START_OPERATION, {"action": "delete", "taskIds": ["b"]}, keeps="operationId"),
    "cancel_operation": Order(Action.CANCEL_OPERATION),
    "create_credential": Order(Action.CREATE_CREDENTIAL, CREDENTIAL, keeps="credential"),
    "update_credential": Order(Action.UPDATE_CREDENTIAL, {"password": "new"}),
    "delete_credential": Order(Action.DELETE_CREDENTIAL),
    "create_key": Order(Action.CREATE_KEY, {"name": "a", "role": "read"}, keeps="keyId"),
    "rotate_key": Order(Action.ROTATE_KEY),
    "revoke_key": Order(Action.REVOKE_KEY),
    "create_agent_token": Order(Action.CREATE_AGENT_TOKEN, {"name": "a"}, keeps="tokenId"),
    "revoke_agent_token": Order(Action.REVOKE_AGENT_TOKEN),
    "create_tenant": Order(Action.CREATE_TENANT, {"name": "acme"}, by_operator=True),
    "limit_tenant": Order(Action.SET_TENANT_LIMITS, {"limits": {"workers": 5}}, by_operator=True),
    "delete_endpoint": Order(Action.DELETE_ENDPOINT),
}


def writing_routes(api: RunningApi) -> dict[str, DescribedRoute]:
    routes = (one for one in routes_of(api) if one.name not in PUBLIC)
    return {one.name: one for one in routes if not (one.methods or set()) <= {"GET", "HEAD"}}


async def recorded(api: RunningApi) -> list[str]:
    """Return the actions in the logs of all tenants."""
    names = sorted([name async for name in api.store.redis.scan_iter("{qe}:audit:*")])
    return [fields[b"action"].decode() for name in names for _, fields in await api.store.redis.xrange(name)]


async def send(made: Made, route: DescribedRoute, order: Order) -> Any:
    """Send an order. Return the data of the response."""
    ids = {**made.ids, "id": made.ids["credential"]} if "registry" in route.path else made.ids
    path = route.path_format.format(**{name: ids[name] for name in route.param_convertors})
    (method,) = route.methods or set[str]()
    key = made.operator if order.by_operator else made.api.key
    answer = await made.api.client.request(method, path + order.query, json=order.body, headers={"X-Api-Key": key})
    assert answer.status_code in (200, 202), (route.name, answer.text)
    return answer.json()["data"]


async def test_every_route_that_changes_something_makes_one_record(api: RunningApi) -> None:
    routes = writing_routes(api)
    assert routes.keys() == ORDERS.keys() | UNRECORDED.keys() | ELSEWHERE.keys(), "declare what a route records"
    operator = await api.new_key(OPERATORS, role=Role.OPERATOR)
    endpoint_id = await api.create_endpoint()
    ids = {"count": "3", "taskId": "a", "origin": "https:hooks.example.net:443", "tenantName": "acme", "credential": ""}
    made = Made(api, endpoint_id, Results(api, endpoint_id), operator, {**ids, "id": endpoint_id})
    for name, order in ORDERS.items():
        if order.prepare is not None:
            await order.prepare(made)
        before = await recorded(api)
        data = await send(made, routes[name], order)
        after = await recorded(api)
        assert len(after) == len(before) + 1, name
        assert after.count(order.action) == before.count(order.action) + 1, name
        if order.keeps is not None:
            kept = data if isinstance(data, int | str) else data.get("id", data.get("operationId"))
            made.ids[order.keeps] = str(kept)
