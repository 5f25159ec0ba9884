"""Roles have rights; a key makes only keys with a part of its own."""

from dataclasses import replace

import pytest

from queue_engine.domain.api_keys import ApiKey, Grant, has_access_of, lives_as_long_as
from queue_engine.domain.errors import Forbidden, NotFound
from queue_engine.domain.principals import ROLE_RIGHTS, TENANT_ROLES, Principal, Right, Role, rights_of, roles_with
from queue_engine.engine.access import check_has_access, check_may

ADMIN = Principal("acme", Role.ADMIN, "k1")
ONE_ENDPOINT = replace(ADMIN, endpoints=frozenset({"7"}))


def test_every_role_has_rights_and_every_right_a_role() -> None:
    assert ROLE_RIGHTS.keys() == set(Role)
    assert all(roles_with(right) for right in Right)


def test_an_admin_has_the_rights_of_all_roles_of_the_tenant_and_an_operator_none_of_them() -> None:
    of_tenants = frozenset().union(*(ROLE_RIGHTS[role] for role in TENANT_ROLES))
    assert ROLE_RIGHTS[Role.ADMIN] == of_tenants
    assert ROLE_RIGHTS[Role.OPERATOR] & of_tenants == {Right.IDENTIFY}
    assert set(Right) == of_tenants | ROLE_RIGHTS[Role.OPERATOR]


def test_operate_includes_read_and_submit_which_do_not_include_each_other() -> None:
    read, submit, operate = (ROLE_RIGHTS[role] for role in (Role.READ, Role.SUBMIT, Role.OPERATE))
    assert read | submit < operate
    assert not read <= submit
    assert not submit <= read


def test_a_key_for_some_endpoints_has_no_rights_on_the_tenants_other_data() -> None:
    assert rights_of(Role.ADMIN, frozenset({"7"})) == ROLE_RIGHTS[Role.ADMIN] - {Right.VIEW_TENANT, Right.MANAGE_TENANT}
    check_may(ONE_ENDPOINT, Right.MANAGE)
    with pytest.raises(Forbidden, match="limited to some endpoints"):
        check_may(ONE_ENDPOINT, Right.MANAGE_TENANT)


def test_the_refusal_names_the_roles_that_are_needed() -> None:
    with pytest.raises(Forbidden) as caught:
        check_may(Principal("acme", Role.READ, "k1"), Right.CANCEL)
    assert str(caught.value) == ("X-Api-Key: the role read does not allow this: it needs submit or operate or admin")


def test_an_endpoint_outside_the_list_does_not_exist_for_the_key() -> None:
    check_has_access(ADMIN, "8")
    check_has_access(ONE_ENDPOINT, "7")
    with pytest.raises(NotFound):
        check_has_access(ONE_ENDPOINT, "8")


@pytest.mark.parametrize(
    ("holder", "grant", "is_allowed"),
    [
        (ADMIN, Grant(""), True),
        (ADMIN, Grant("", Role.READ, frozenset({"7"})), True),
        (ADMIN, Grant("", Role.OPERATOR), False),
        (ONE_ENDPOINT, Grant("", endpoints=frozenset({"7"})), True),
        (ONE_ENDPOINT, Grant("", Role.READ, frozenset({"7"})), True),
        (ONE_ENDPOINT, Grant(""), False),
        (ONE_ENDPOINT, Grant("", Role.READ), False),
        (ONE_ENDPOINT, Grant("", Role.READ, frozenset({"7", "8"})), False),
        (replace(ADMIN, role=Role.OPERATE), Grant("", Role.SUBMIT), True),
        (replace(ADMIN, role=Role.OPERATE), Grant(""), False),
        (replace(ADMIN, role=Role.READ), Grant("", Role.SUBMIT), False),
        (replace(ADMIN, role=Role.SUBMIT), Grant("", Role.READ), False),
        (replace(ADMIN, role=Role.OPERATOR), Grant("", Role.READ), False),
    ],
)
def test_no_key_makes_a_key_with_more_rights_or_endpoints(holder: Principal, grant: Grant, is_allowed: bool) -> None:
    assert has_access_of(holder, grant) is is_allowed


@pytest.mark.parametrize(
    ("own_end", "end", "is_allowed"),
    [(None, None, True), (None, 5, True), (5, 5, True), (5, 4, True), (5, 6, False), (5, None, False)],
)
def test_no_key_makes_a_key_that_lives_longer(own_end: int | None, end: int | None, is_allowed: bool) -> None:
    holder = replace(ADMIN, expires_at_ms=own_end)
    assert lives_as_long_as(holder, Grant("", expires_at_ms=end)) is is_allowed


def test_a_rotated_key_is_the_same_submitter() -> None:
    first = ApiKey("a" * 64, "acme", "", 0)
    rotated = ApiKey("b" * 64, "acme", "", 0, origin=first.key_id)
    assert rotated.principal().submitter == first.principal().submitter == "a" * 16
    assert rotated.principal().key_id == "b" * 16
