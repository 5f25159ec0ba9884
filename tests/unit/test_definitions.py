"""The definitions of settings and fields: the names in the store are those of format 1, and no two are the same."""

import pytest

from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import SETTINGS
from queue_engine.domain.tasks import SPEC_FIELDS, TASK_FIELDS

IN_ENDPOINT_HASH = {
    "service_mode": "mode",
    "workers": "workers",
    "webhook": "webhook",
    "execution_timeout_seconds": "timeout",
    "max_attempts": "max_attempts",
    "max_queued_tasks": "max_queued",
    "result_retention_seconds": "retention",
    "queue_ttl_seconds": "queue_ttl",
    "cancel_uri": "cancel_uri",
    "max_busy_seconds": "max_busy",
    "retry_on": "retry_on",
    "retry_delays_seconds": "retry_delays",
}
IN_ENDPOINT_JSON = {
    name: name
    for name in (
        *("name", "image", "image_registry", "credential_id", "resources", "container_volume_in_gb", "expose"),
        *("min_single_card_vram_in_gb", "min_single_card_vcpu", "min_single_card_ram_in_gb", "concurrency"),
        *("initialization_command", "plain_variables", "ready_path"),
    )
} | {"start_timeout_seconds": "start_timeout"}
IN_SPEC = {"worker_port": "port", "process_uri": "uri", "webhook": "webhook"}
SEALED_IN_SPEC = {"headers": "headers", "webhook_auth_key": "auth_key"}
NOT_A_REASON_FOR_NEW_WORKERS = {
    *("name", "workers", "webhook", "execution_timeout_seconds", "max_attempts", "max_queued_tasks"),
    *("result_retention_seconds", "queue_ttl_seconds", "retry_on", "retry_delays_seconds", "cancel_uri"),
    "max_busy_seconds",
}


def test_every_name_in_the_store_stays() -> None:
    hash_, json = (
        {one.name: one.stored for one in SETTINGS if one.definition.for_scripts is in_hash} for in_hash in (True, False)
    )
    public, secret = (
        {one.name: one.stored for one in SPEC_FIELDS if one.definition.secret is sealed} for sealed in (False, True)
    )
    assert hash_.items() >= IN_ENDPOINT_HASH.items()
    assert json.items() >= IN_ENDPOINT_JSON.items()
    assert public.items() >= IN_SPEC.items()
    assert secret.items() >= SEALED_IN_SPEC.items()


def test_a_change_of_these_settings_replaces_no_worker_and_one_of_the_others_does() -> None:
    known = IN_ENDPOINT_HASH.keys() | IN_ENDPOINT_JSON.keys()
    keeps = {one.name for one in SETTINGS if one.name in known and not one.definition.renews_workers}
    assert keeps == NOT_A_REASON_FOR_NEW_WORKERS


@pytest.mark.parametrize("fields", [SETTINGS, TASK_FIELDS])
def test_no_two_definitions_share_a_name(fields: tuple[Defined[object], ...]) -> None:  # type: ignore[type-var]
    for names in (
        [one.asked for one in fields],
        [one.shown for one in fields],
        [one.stored for one in fields],
        [one.option for one in fields],
    ):
        assert len(set(names)) == len(names)
