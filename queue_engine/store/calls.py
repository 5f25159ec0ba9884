"""The store's scripts as methods. `calls.pyi` has their signatures: `make stubs` writes it from the headers."""

from __future__ import annotations

from queue_engine.store.scripts import Call, Submit, load_scripts


class Scripts:
    """A method for each script, made when it is first called; `submit` sends the call."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit

    def __getattr__(self, name: str) -> Call:
        scripts = load_scripts()
        if name not in scripts:
            raise AttributeError(f"there is no script {name}")
        call = scripts[name].bind(self._submit)
        setattr(self, name, call)
        return call
