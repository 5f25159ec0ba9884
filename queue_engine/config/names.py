"""Names of environment variables. Separate from the settings classes, which take a quarter of a second to load."""

from __future__ import annotations

ENGINE_PREFIX = "QUEUE_ENGINE_"
AGENT_PREFIX = "WORKER_AGENT_"

CLIENT_VARIABLES = frozenset(
    {
        "QUEUE_ENGINE_URL",
        "QUEUE_ENGINE_API_KEY",
        "QUEUE_ENGINE_API_KEY_FILE",
        "QUEUE_ENGINE_WEBHOOK_AUTH_KEY",
        "QUEUE_ENGINE_WEBHOOK_AUTH_KEY_FILE",
    }
)
"""Variables of the commands that talk to the API."""


def is_prefixed(name: str) -> bool:
    """Return whether a name begins like a variable of the engine or the agent."""
    return name.upper().startswith((ENGINE_PREFIX, AGENT_PREFIX))


def without_prefix(message: str) -> str:
    """Return the message of a validation error without the prefix that pydantic puts before that of a ValueError."""
    return message.removeprefix("Value error, ")
