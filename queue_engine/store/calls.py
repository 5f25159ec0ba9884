"""The store's scripts as methods. `calls.pyi` has their signatures: `make stubs` writes it from the headers."""

from __future__ import annotations

from queue_engine.store.scripts import Submit, load_scripts


class Scripts:
    """A method for each script; `submit` sends them."""

    def __init__(self, submit: Submit) -> None:
        for script in load_scripts().values():
            setattr(self, script.name, script.bind(submit))
