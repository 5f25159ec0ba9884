"""The fields of the client's methods are those of the API."""

from typing import get_type_hints

from queue_engine.client.calls import camel
from queue_engine.client.fields import CloneFields, CreateFields, SubmitFields, TaskFilterFields, UpdateFields
from queue_engine.domain.endpoints import SETTINGS
from queue_engine.domain.task_filters import TASK_FILTERS
from queue_engine.domain.tasks import TASK_FIELDS

ARGUMENTS = {"worker_port", "process_uri"}
"""Fields that are arguments of `submit` itself, as port and path."""


def test_a_submission_has_the_fields_of_the_api() -> None:
    assert set(get_type_hints(SubmitFields)) == {field.asked for field in TASK_FIELDS} - ARGUMENTS


def test_a_copy_has_the_fields_of_the_api() -> None:
    assert set(get_type_hints(CloneFields)) == {field.asked for field in TASK_FIELDS} - ARGUMENTS | {
        *("input", "path", "port"),
    }


def test_a_list_has_the_filters_of_the_api() -> None:
    assert set(get_type_hints(TaskFilterFields)) == {one.asked for one in TASK_FILTERS}


def test_an_endpoint_has_the_settings_of_the_api() -> None:
    assert set(get_type_hints(CreateFields)) == {setting.asked for setting in SETTINGS}


def test_only_settings_that_can_change_are_in_an_update() -> None:
    fixed = set(get_type_hints(CreateFields)) - set(get_type_hints(UpdateFields))
    assert fixed == {"image", "image_registry", "service_mode"}


def test_names_are_those_of_the_api_in_camel_case() -> None:
    assert camel("min_single_card_vram_in_gb") == "minSingleCardVramInGb"
    assert camel("input") == "input"
