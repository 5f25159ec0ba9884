"""Secrets from environment variables, or from files that variables name.

Container platforms mount secrets as files, and a file is better protected than an environment. So every variable `X`
for a secret has a second form, `X_FILE`, with the path of a file that has the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MAX_SECRET_FILE_BYTES = 64 * 1024
FILE_SUFFIX = "_FILE"


def secret_from(environment: Mapping[str, str], name: str) -> str | None:
    """Return the secret in variable `name`, or in the file that `<name>_FILE` names; None if neither is set.

    An empty variable counts as not set. Raises ValueError, which names the variable, if both are set or the file cannot
    be read.
    """
    value, file = environment.get(name), environment.get(name + FILE_SUFFIX)
    if value and file:
        raise ValueError(f"{name} and {name}{FILE_SUFFIX} are both set: set only one of them")
    if not file:
        return value or None
    try:
        return read_secret_file(Path(file))
    except ValueError as error:
        raise ValueError(f"{name}{FILE_SUFFIX}: {error}") from None


def read_secret_file(path: Path) -> str:
    """Return the text of the file without leading and trailing whitespace. Raises ValueError, which names the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
        text = data.decode().strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise ValueError(f"{path} is longer than {MAX_SECRET_FILE_BYTES} bytes")
    if not text:
        raise ValueError(f"{path} is empty")
    return text
