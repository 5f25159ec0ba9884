"""The base of the settings classes of all processes.

A setting is defined once, as a field of one of these classes: name, type, limits, default and text. The following are
made from the field: its variable, its file form when it is a secret, the hints about misspelled names, the environment
of the agents and docs/reference/configuration.md.
"""

from __future__ import annotations

import os
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from queue_engine.config.names import ENGINE_PREFIX
from queue_engine.crypto.secret_files import FILE_SUFFIX, secret_from


class ProcessSettings(BaseSettings):
    """Settings from environment variables. A secret may also be in the file that its variable with `_FILE` names.

    Raises ValueError when both forms of a secret are given, and when its file cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENGINE_PREFIX, env_ignore_empty=True, extra="ignore", defer_build=True, allow_inf_nan=False
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - called by keyword
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - called by keyword
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)


def secret_fields(settings: type[BaseSettings]) -> list[str]:
    """Return the names of the fields that hold a secret."""
    return [
        name
        for name, field in settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    ]


def variable_of(settings: type[ProcessSettings], name: str) -> str:
    """Return the environment variable of a field."""
    return f"{settings.model_config['env_prefix']}{name.upper()}"


def variables_of(settings: type[ProcessSettings]) -> set[str]:
    """Return every variable that a process with these settings reads, the file forms of secrets included."""
    values = {variable_of(settings, name) for name in settings.model_fields}
    return values | {variable_of(settings, name) + FILE_SUFFIX for name in secret_fields(settings)}


def text_of(settings: type[ProcessSettings], name: str) -> str:
    """Return the description of a setting for the reference and the command line."""
    return settings.model_fields[name].description or ""


class _SecretFiles(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - inherited
        return secret_from(os.environ, f"{self.config['env_prefix']}{field_name.upper()}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(fields[name], name)[0] for name in secret_fields(self.settings_cls)}
        return {name: value for name, value in found.items() if value is not None}
