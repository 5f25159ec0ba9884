"""`queue-engine secret-key …`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

import typer

from queue_engine.cli.options import RedisUrl
from queue_engine.cli.running import fail, run
from queue_engine.cli.startup import settings_from
from queue_engine.cli.store_access import with_store
from queue_engine.config.shared import StoreSettings
from queue_engine.crypto.sealing import new_secret_key
from queue_engine.store.rotation import Progress, Rotated

commands = typer.Typer()
group = typer.Typer(help="Create and rotate the secret key. Without a subcommand, print a new key.")
commands.add_typer(group, name="secret-key")


@group.callback(invoke_without_command=True)
def secret_key(context: typer.Context) -> None:
    """`queue-engine secret-key` alone is `queue-engine secret-key new`."""
    if context.invoked_subcommand is None:
        new_key()


@group.command("new")
def new_key() -> None:
    """Print a new random key for QUEUE_ENGINE_SECRET_KEY."""
    typer.echo(new_secret_key())


@group.command("rotate")
def rotate_key(
    redis_url: RedisUrl = None,
) -> None:
    """Seal every stored secret with the new QUEUE_ENGINE_SECRET_KEY.

    Opens the secrets with the keys in QUEUE_ENGINE_SECRET_KEY_PREVIOUS. Safe while the engine runs, and safe to repeat.
    docs/guides/secrets.md has the steps before and after.
    """
    settings = settings_from(StoreSettings, redis_url=redis_url)
    if settings.secret_key is None:
        fail("QUEUE_ENGINE_SECRET_KEY: is required; it is the new key")
    shown = _Progress()
    rotated: Rotated = run(with_store(redis_url, lambda store: store.rotation.run(shown)))
    for line in _summary(rotated):
        typer.echo(line)
    if not rotated.complete or rotated.progress.unreadable:
        sys.exit(1)


class _Progress:
    """Prints the progress of a rotation, at most once a second."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._said_at < 1.0:
            return
        self._said_at = time.monotonic()
        checked = ", ".join(f"{count} {kind}" for kind, count in progress.checked.items())
        typer.echo(f"round {progress.round}: {checked} checked; {progress.total_resealed} resealed", err=True)


def _summary(rotated: Rotated) -> Iterable[str]:
    progress = rotated.progress
    for kind, checked in progress.checked.items():
        yield f"{kind + ':':<13} {checked} checked, {progress.resealed.get(kind, 0)} resealed"
    if progress.unreadable:
        yield f"{progress.unreadable} cannot be opened with any of the configured keys and are not changed:"
        yield from (f"  {name}" for name in progress.unreadable_names)
        if progress.unreadable > len(progress.unreadable_names):
            yield "  and others"
    if not rotated.complete:
        yield "not complete: a process still seals with an older key. Restart it with the new key, then repeat this"
    elif progress.unreadable:
        yield "all others are sealed with the current key"
    else:
        yield "complete: every secret is sealed with the current key"
