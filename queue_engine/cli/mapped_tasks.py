"""`queue-engine tasks map`: run a task for each line of a file, and print their results as JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import typer

from queue_engine.cli.client import ENDPOINTS, CommandError, Data, Refused, Unreachable, WrongUse, refusal_of
from queue_engine.cli.command import Session
from queue_engine.cli.output import safe
from queue_engine.cli.raw_members import split_items, split_members
from queue_engine.client.batches import submit_group
from queue_engine.client.calls import WAIT_SECONDS
from queue_engine.client.errors import ApiError
from queue_engine.client.exchange import DEFAULT_TIMEOUT_SECONDS, Patience
from queue_engine.client.mapping import MapItem, TaskMap
from queue_engine.client.models import TaskInfo
from queue_engine.client.progress import MapProgress

GOES_ON = "submitted tasks go on, and the same command continues: it prints all results from the first"
CONFLICT_STATUS = 409
OTHER_OPTIONS = (
    "the file was submitted with other options, which are no part of the tasks' ids: give the same options to "
    "continue, or another --batch-id to run all lines again"
)
ID_CHARACTERS = 32
"""Length of a batch id that is made from the contents of a file."""

T = TypeVar("T")


@dataclass(frozen=True)
class InputFile:
    """A file with one JSON value on each line. Empty lines do not count."""

    path: Path
    count: int
    batch_id: str
    """Hash of its contents, so that the same file goes on where it was."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as lines:
            for line in lines:
                if text := line.strip():
                    yield text


def read_inputs(path: Path, max_bytes: int) -> InputFile:
    """Return the inputs of a file, after a look at each of them. Raises WrongUse that names the line."""
    digest, count = hashlib.sha256(), 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(max_bytes + 1), b""), start=1):
                digest.update(line)
                if text := line.strip():
                    _check(text, f"{path}, line {number}", max_bytes)
                    count += 1
    except OSError as error:
        raise WrongUse(f"{path}: cannot be read: {error.strerror or error}") from None
    return InputFile(path, count, digest.hexdigest()[:ID_CHARACTERS])


def _check(text: bytes, where: str, max_bytes: int) -> None:
    if len(text) > max_bytes:
        raise WrongUse(f"{where}: is longer than {max_bytes} bytes")
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{where}: is not JSON: {error}") from None


@dataclass
class Outages:
    """The calls of the command, which are retried for as long as those of the Python client."""

    session: Session
    say: Callable[[str], None] = field(default=lambda text: typer.echo(text, err=True))
    """Prints a line on standard error."""
    _is_away: bool = False

    def patiently(self, ask: Callable[[], T]) -> T:
        """Return the result of `ask`, retrying while the API is unavailable or busy."""
        return self.session.patiently(ask, seconds=DEFAULT_TIMEOUT_SECONDS, note=self.note)

    def note(self, problem: str | None) -> None:
        """Say that the API is away, or that it is back: one line for each outage."""
        if self._is_away == (problem is not None):
            return
        self._is_away = problem is not None
        away = f"the API is away: {safe(problem or '')}; trying again for {DEFAULT_TIMEOUT_SECONDS:g} s"
        self.say(away if self._is_away else "the API is back")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Add to the error of an outage that outlasted the retries that the same command continues."""
        try:
            yield
        except Unreachable as error:
            raise Unreachable(f"{error}; {GOES_ON}") from None
        except Refused as error:
            if not error.passes:
                raise
            after = error.retry_after_seconds
            raise Refused(f"{error}; {GOES_ON}", status=error.status, retry_after_seconds=after) from None


@dataclass(frozen=True)
class Mapped:
    """A run over the inputs of a file."""

    session: Session
    outages: Outages
    endpoint_id: str
    fields: Mapping[str, Any]
    """The fields of each submission, by their names in the API."""

    def run(self, inputs: InputFile, *, window: int, ordered: bool, batch_id: str) -> int:
        """Print a line for each task when it has ended, and return the number of failed tasks. Raises WrongUse."""
        try:
            tasks = TaskMap(inputs, window=window, ordered=ordered, batch_id=batch_id)
        except ValueError as error:
            raise WrongUse(f"--{str(error).replace('_', '-', 1)}") from None
        ended = failed = 0
        try:
            with MapProgress(inputs, shown=True) as bar:
                self.outages.say = bar.say
                while not tasks.is_done:
                    while group := tasks.take_group(self._line_of):
                        self._submit(group)
                    for item in tasks.results():
                        bar.ended(item)
                        failed += item.error is not None
                        self.session.screen.line(_line(item))
                        ended += 1
                    if asked := tasks.waiting():
                        tasks.note_all(self._ended(asked), asked=asked)
        except KeyboardInterrupt:
            typer.echo(f"interrupted after {ended} of {len(inputs)} inputs; {GOES_ON}", err=True)
            raise
        return failed

    def _line_of(self, given: bytes, task_id: str) -> bytes:
        """Return the line of a task. Its input is unchanged, so that no number loses digits."""
        fields = json.dumps({**self.fields, "taskId": task_id}).encode()
        return fields[:-1] + b', "input": ' + given + b"}"

    def _submit(self, lines: Sequence[bytes]) -> None:
        """Submit tasks. Raises Refused for the first that is rejected."""
        session = self.session

        def patience() -> Patience:
            return Patience.of(DEFAULT_TIMEOUT_SECONDS, session.monotonic)

        flow = submit_group(self.endpoint_id, lines, patience)
        for item in session.api.run(flow, session.pause, self.outages.note):
            if item.error is not None:
                raise _refusal_of(item.error)

    def _ended(self, asked: list[str]) -> list[TaskInfo]:
        body = json.dumps({"taskIds": asked, "wait": WAIT_SECONDS}).encode()

        def ask() -> Data:
            api = self.session.api
            return api.send("POST", ENDPOINTS, self.endpoint_id, "tasks", "wait", body=body, holds=WAIT_SECONDS)

        found = self.outages.patiently(ask).split("ended")
        if unknown := found.values.get("unknown"):
            raise WrongUse(f"task {unknown[0]} does not exist any more: use another --batch-id")
        return [_task(text) for text in split_items(found.raw["ended"])]


def _refusal_of(error: ApiError) -> CommandError:
    """Return the error of a rejected task, with the way out if its id is that of a task with other options."""
    if error.status != CONFLICT_STATUS or not error.message.startswith("taskId:"):
        return refusal_of(error)
    return Refused(f"{error.message}; {OTHER_OPTIONS}", status=CONFLICT_STATUS)


def _task(text: str) -> TaskInfo:
    """Return a task whose output is JSON text."""
    members = split_members(text.encode(), frozenset({"input", "output"}))
    return TaskInfo.model_validate({**members.values, "output": members.raw.get("output", "null")})


def _line(item: MapItem) -> str:
    about = {"index": item.index, "taskId": item.task_id}
    if item.error is not None:
        return json.dumps({**about, "status": item.error.task.status, "error": item.error.task.error})
    return f'{json.dumps(about)[:-1]}, "output": {item.output}}}'
