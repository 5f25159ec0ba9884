"""The rules of access: rights of a role, the endpoints of a tenant and of a key, and the tasks of a submitter."""

from __future__ import annotations

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Forbidden, NotFound, Resource
from queue_engine.domain.principals import TENANT_WIDE, Principal, Right, roles_with
from queue_engine.domain.tasks import Task


def check_may(principal: Principal, right: Right) -> None:
    """Raise Forbidden if the principal does not have the right. Each call is checked with the right that it declares.

    The message names the roles that have the right, because the caller cannot learn anything else from it.
    """
    if right in principal.rights:
        return
    roles = roles_with(right)
    if right in TENANT_WIDE and principal.role in roles:
        raise Forbidden("the key is limited to some endpoints, so it does not allow this")
    raise Forbidden(f"the role {principal.role} does not allow this: it needs {' or '.join(roles)}")


def check_sees(principal: Principal, endpoint: Endpoint) -> None:
    """Raise NotFound for another tenant's endpoint, and for one that the key gives no access to.

    Use cases that take an endpoint call this first, because the caller may not have used `Endpoints.get` to read it.
    """
    if endpoint.tenant != principal.tenant:
        raise NotFound(Resource.ENDPOINT)
    check_has_access(principal, endpoint.endpoint_id)


def check_has_access(principal: Principal, endpoint_id: str) -> None:
    """Raise NotFound for an endpoint that is not in the key's list. Use cases that take an endpoint's id call this.

    Their call of the store compares the tenant.
    """
    if not principal.sees_endpoint(endpoint_id):
        raise NotFound(Resource.ENDPOINT)


def check_sees_task(principal: Principal, task: Task) -> None:
    """Raise NotFound for a task that another key has submitted, if the principal may only read its own."""
    if principal.sees_only_own_tasks and task.spec.submitter != principal.submitter:
        raise NotFound(Resource.TASK)
