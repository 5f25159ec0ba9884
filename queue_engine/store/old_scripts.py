"""Scripts that are still addressed by number."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MARK = "mark"
PROMISES = frozenset(
    {
        *("enqueue", "finish", "retry", "cancel", "run_again", "delete_task", "settle_delivery", "settle_event", MARK),
        *("create_endpoint", "update_endpoint", "want_endpoint"),
        *("create_credential", "update_credential", "delete_credential"),
        *("put_api_key", "revoke_api_key"),
    }
)
"""Scripts whose reply promises something to somebody: they wait for the durability that is asked for."""
NO_PROMISE = frozenset(
    {
        *("start", "beat", "release", "unread", "sweep", "reclaim", "promote", "expire", "end_waiting"),
        *(
            "read",
            "read_attempts",
            "read_spec",
            "read_request",
            "page",
            "overdue",
            "purge",
            "make_queues",
            "tidy_consumers",
        ),
        *("open_delivery", "open_event", "adopt_deliveries", "due_deliveries", "promote_delivery"),
        *("defer_delivery", "defer_event"),
        *("put_worker", "start_worker", "report_worker", "mark_worker", "remove_worker"),
        *("mark_endpoint", "remove_endpoint"),
        *("use_credential", "release_credential", "reseal_field", "reseal_spec", "append_logs", "drop_logs"),
        *("hold_leadership", "yield_leadership"),
    }
)
"""All others: what they write is found missing and done again, or nobody was told of it."""


@dataclass(frozen=True)
class OldScript:
    """One transition. `text` is the file with lib.lua put in after its first line."""

    name: str
    text: str
    sha: str

    @property
    def is_durable(self) -> bool:
        return self.name in PROMISES


@cache
def load_old_scripts() -> dict[str, OldScript]:
    """All scripts of the package by name."""
    folder = files("queue_engine.store") / "lua"
    library = (folder / "lib.lua").read_text()
    scripts = {}
    for entry in folder.iterdir():
        name = entry.name.removesuffix(".lua")
        if name in ("lib", "library") or not entry.name.endswith(".lua"):
            continue
        shebang, _, body = entry.read_text().partition("\n")
        if not shebang.startswith("#!lua"):
            continue
        text = f"{shebang}\n{library}\n{body}"
        scripts[name] = OldScript(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts
