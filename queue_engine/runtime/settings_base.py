"""The base of the settings classes of all processes."""

from __future__ import annotations

import os
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from queue_engine.runtime.secret_files import secret_from


class ProcessSettings(BaseSettings):
    """Settings from environment variables; a secret also from the file that its variable with `_FILE` names.

    Raises ValueError when both forms of a secret are given, and when its file cannot be read.
    """

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


class _SecretFiles(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - inherited
        return secret_from(os.environ, f"{self.config['env_prefix']}{field_name.upper()}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(fields[name], name)[0] for name in secret_fields(self.settings_cls)}
        return {name: value for name, value in found.items() if value is not None}
