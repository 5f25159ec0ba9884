"""Read the settings of a command from the environment and its options."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from queue_engine.cli.running import fail
from queue_engine.config.names import without_prefix
from queue_engine.config.variables import removed_variables

Settings = TypeVar("Settings", bound=BaseSettings)


def settings_from(kind: type[Settings], **options: Any) -> Settings:
    """Return the settings; options take precedence over the environment. Ends the program if a setting is invalid."""
    if removed := removed_variables(os.environ):
        fail("\n".join(removed))
    try:
        return kind(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fail("\n".join(_messages_of(error)))
    except ValueError as error:  # a secret whose file cannot be read, or that is set twice
        fail(str(error))


def _messages_of(error: ValidationError) -> Iterable[str]:
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        yield f"QUEUE_ENGINE_{str(one['loc'][0]).upper()}: {without_prefix(one['msg'])}"
