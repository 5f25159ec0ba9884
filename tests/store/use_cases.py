"""The engine over a real store, for tests of its use cases."""

from collections.abc import Sequence

from queue_engine.domain.principals import Principal, Role
from queue_engine.domain.tasks import TaskSpec
from queue_engine.engine.engine import Engine
from queue_engine.engine.submissions import TaskRequest
from queue_engine.rules.webhook_urls import AddressPolicy, DestinationRules, Webhook, parse_webhook
from queue_engine.store.store import Store
from tests.store.bench import SECRET_KEY, TENANT

OWNER = Principal(TENANT, Role.ADMIN, "key of the owner")
STRANGER = Principal("other", Role.ADMIN, "key of a stranger")


class Lookup:
    """Finds the same address for every name."""

    async def addresses(self, host: str, owner: str = "") -> Sequence[str]:
        return ("93.184.216.34",)


def engine_on(store: Store, secret_keys: Sequence[bytes] = (SECRET_KEY,)) -> Engine:
    """Return the engine; webhooks may point at every public address."""
    return Engine(store, Lookup(), DestinationRules(AddressPolicy()), secret_keys)


def request(
    task_id: str | None = "t1",
    input_: bytes = b'{"n": 1}',
    *,
    webhook: str | None = None,
    auth_key: str | None = None,
    headers: dict[str, str] | None = None,
    timeout: int | None = None,
    metadata: dict[str, str] | None = None,
    tags: Sequence[str] = (),
) -> TaskRequest:
    """Return a request as a parser makes it."""
    parsed: Webhook | None = parse_webhook(webhook) if webhook else None
    spec = TaskSpec(
        worker_port=8000,
        process_uri="/run",
        headers=headers or {},
        webhook=parsed.url if parsed else None,
        webhook_destination=parsed.destination if parsed else None,
        webhook_auth_key=auth_key,
        metadata=metadata or {},
        tags=list(tags),
    )
    return TaskRequest(task_id, spec, input_, parsed, timeout)
