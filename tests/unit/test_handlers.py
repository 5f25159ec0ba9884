"""Handlers of requests are short: they parse, call a use case and render."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "queue_engine/api/v2",
    "queue_engine/api/public",
    "queue_engine/api/proxy",
    "queue_engine/api/agent",
    "queue_engine/web",
)
MAX_LINES = 12
"""Limit of the lines of a handler, without its docstring, comments and empty lines."""

MAKERS = {"Operation", "DescribedRoute", "ForwardRoute", "AgentRoute", "console_route", "_route"}
"""Functions and classes that make a route of a handler."""
REQUESTS = {"Request", "Caller"}
"""Types of requests. A coroutine that gets one is a part of a handler, and has the same limit."""


class Handler(NamedTuple):
    """A handler, or a part of one."""

    place: str
    is_route: bool
    lines: int


def test_handlers_are_short() -> None:
    long = [f"{one.place} has {one.lines} lines" for one in _all_handlers() if one.lines > MAX_LINES]
    assert not long, "\n".join([*long, f"at most {MAX_LINES}: a handler parses, calls a use case and renders"])


def test_the_handlers_of_all_kinds_of_routes_are_found() -> None:
    found = {one.place.partition(":")[2] for one in _all_handlers() if one.is_route}
    assert {"submit_task", "follow_events", "export_tasks", "forward", "_claim", "serve", "_log_in"} <= found
    assert len(found) > 70


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            'Operation(serve=self.get)\nasync def get(request: Request):\n    """Text."""\n    # why\n\n    return 1',
            [1],
        ),
        (
            'Operation("GET", "/", self.lists.get)\nasync def get(scope):\n    x = f(\n        1,\n    )\n    return x',
            [4],
        ),
        ("Operation(serve=get)\nasync def get(scope):\n    return 1", [1]),
        ("async def _read(self, request: Request):\n    return 1", [1]),
        ("async def _read(self, *, caller: Caller):\n    return 1", [1]),
        ("async def _read(self, scope: Scope):\n    return 1", []),
        ("def wait_in(request: Request):\n    return 1", []),
    ],
)
def test_the_lines_of_handlers_and_their_parts_are_counted(source: str, expected: list[int]) -> None:
    assert [one.lines for one in _handlers([("module", source)])] == expected


def _all_handlers() -> list[Handler]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return list(_handlers([(str(path.relative_to(ROOT)), path.read_text()) for path in paths]))


def _handlers(modules: Sequence[tuple[str, str]]) -> Iterator[Handler]:
    """Yield the handlers in these modules, each given by its name and text, and the parts of handlers."""
    trees = {name: ast.parse(text) for name, text in modules}
    routed = {name for tree in trees.values() for name in _routed_names(tree)}
    for module, text in modules:
        for function in ast.walk(trees[module]):
            if not isinstance(function, ast.AsyncFunctionDef):
                continue
            is_route = function.name in routed
            if is_route or _types_of(function) & REQUESTS:
                yield Handler(f"{module}:{function.name}", is_route, _lines(function, text.splitlines()))


def _routed_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions and methods that are given to something that makes a route."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _name(call.func) in MAKERS:
            yield from filter(None, map(_name, (*call.args, *(keyword.value for keyword in call.keywords))))


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name; empty for another expression."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _types_of(function: ast.AsyncFunctionDef) -> set[str]:
    arguments = (*function.args.args, *function.args.kwonlyargs)
    return {_name(one.annotation) for one in arguments if one.annotation is not None}


def _lines(function: ast.AsyncFunctionDef, text: Sequence[str]) -> int:
    """Count the lines of a function's body."""
    body = function.body if ast.get_docstring(function) is None else function.body[1:]
    if not body:
        return 0
    rows = [row.strip() for row in text[body[0].lineno - 1 : body[-1].end_lineno]]
    return sum(bool(row) and not row.startswith("#") for row in rows)
