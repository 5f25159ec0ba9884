"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx

from queue_engine.client import calls
from queue_engine.client.batches import TaskLines, batch_of, groups_of, submit_group
from queue_engine.client.connection import Connection, lost, received, sent
from queue_engine.client.errors import Forbidden
from queue_engine.client.exchange import DEFAULT_TIMEOUT_SECONDS, Flow, Patience, Request, call, path_of
from queue_engine.client.fields import (
    CloneFields,
    CreateFields,
    LogFields,
    SubmitFields,
    TaskFilterFields,
    UpdateFields,
    takes,
)
from queue_engine.client.mapping import DEFAULT_WINDOW, INTERRUPTED, MapItem, TaskMap, check_batch_id, task_id_at
from queue_engine.client.models import (
    Attempt,
    Batch,
    BatchItem,
    Delivery,
    Download,
    EndpointInfo,
    LogLine,
    OperationInfo,
    TaskCounts,
    TaskInfo,
    Waiting,
    WorkerInfo,
)
from queue_engine.client.progress import MapProgress, OperationProgress

T = TypeVar("T")

LOG_POLL_SECONDS = 1.0


class Client:
    """A client of the API. Its methods raise ApiError.

    `url` and `api_key` are by default QUEUE_ENGINE_URL and QUEUE_ENGINE_API_KEY (or the file that
    QUEUE_ENGINE_API_KEY_FILE names). `timeout` is the time in seconds for which a call is retried while the API is away
    or busy. A client may be used by several threads. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = Connection.of(url, api_key)
        self._timeout = timeout
        self._http = connection.client(transport)
        self.url = connection.url

    def endpoint(self, id_or_name: str | int, *, port: int | None = None) -> Endpoint:
        """Return the endpoint with this id or name. It is looked up when its name or its port is first needed.

        `port` is the port of the container that tasks are sent to, the exposed one by default.
        """
        return Endpoint(self, calls.id_or_name_of(id_or_name), port)

    def endpoints(self) -> list[EndpointInfo]:
        """Return all endpoints, newest first."""
        return [EndpointInfo.model_validate(row) for row in self._call("GET")]

    @takes(CreateFields)
    def create_endpoint(self, **settings: Unpack[CreateFields]) -> EndpointInfo:
        """Create an endpoint. Only its response has the `webhook_secret`."""
        return EndpointInfo.model_validate(self._call("POST", body=calls.body_of(settings), repeatable=False))

    def operations(self) -> Iterator[OperationInfo]:
        """Iterate over the bulk operations of all endpoints, newest first."""
        number, more = 1, True
        while more:
            rows, more = self.run(calls.operation_page(None, number, self.patience()))
            yield from rows
            number += 1

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def patience(self, seconds: float | None = None) -> Patience:
        """Return the retries of one operation, by default those of the client's timeout."""
        return Patience.of(self._timeout if seconds is None else seconds, time.monotonic)

    def run(self, flow: Flow[T]) -> T:
        """Run an operation of `queue_engine.client.calls`, and return its result."""
        try:
            request = next(flow)
            while True:
                try:
                    response = self._exchange(request)
                except httpx.HTTPError as error:
                    request = flow.throw(lost(error, self.url))
                else:
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _exchange(self, request: Request) -> Any:
        if request.after > 0:
            time.sleep(request.after)  # noqa: TID251 - this is a client, and the pause is its purpose
        return received(self._http.request(**sent(request)))

    def _call(self, method: str, *parts: str, **of_request: Any) -> Any:
        return self.run(call(Request(method, path_of(*parts), **of_request), self.patience()))


class Endpoint:
    """An endpoint. Get it from `Client.endpoint`."""

    def __init__(self, client: Client, id_or_name: str, port: int | None) -> None:
        self._client = client
        self._id_or_name = id_or_name
        self._port = port
        self._id = calls.id_in(id_or_name)

    @property
    def id(self) -> str:
        """Id of the endpoint. A name is looked up. Raises NotFound if no endpoint has it."""
        return self._id or self._found().id

    def info(self) -> EndpointInfo:
        """Read the endpoint. Its `etag` is the version for `if_match` of a change."""
        return self._noted(self.run(calls.endpoint_to_change(self._id or self._id_or_name, self.patience())))

    def _found(self) -> EndpointInfo:
        return self._noted(self.run(calls.endpoint_of(self._id or self._id_or_name, self.patience())))

    def _noted(self, info: EndpointInfo) -> EndpointInfo:
        """Note what tasks and later calls need of the endpoint."""
        self._id = info.id
        if self._port is None and info.expose is not None:
            self._port = info.expose.get("port")
        return info

    @takes(SubmitFields)
    def submit(
        self,
        input: Any,  # noqa: A002 - the API's name
        *,
        path: str = "/",
        task_id: str | None = None,
        port: int | None = None,
        **fields: Unpack[SubmitFields],
    ) -> Task:
        """Submit a task, and return it without waiting for its end.

        The id of the task is made here if it is not given, so a request that is repeated runs nothing twice.
        """
        task_id = task_id or calls.new_task_id()
        body = {**fields, "input": input, "task_id": task_id, "process_uri": path, "worker_port": self._port_of(port)}
        self._client.run(calls.submit(self.id, body, self._client.patience()))
        return Task(self, task_id)

    @takes(SubmitFields)
    def batch(
        self,
        inputs: Iterable[Any],
        *,
        path: str = "/",
        port: int | None = None,
        batch_id: str | None = None,
        **fields: Unpack[SubmitFields],
    ) -> Batch:
        """Submit a task for each input, and return their results without waiting for the ends of the tasks.

        Each task is accepted or rejected by itself. Tasks that the API cannot take now are sent again. With a
        `batch_id` (1–64 of `[A-Za-z0-9_]`), the same call after an interruption submits no task twice.
        """
        check_batch_id(batch_id)
        lines = self._lines(path, port, fields)
        items: list[BatchItem] = []
        for group in groups_of(lines.of(value, task_id_at(index, batch_id)) for index, value in enumerate(inputs)):
            results = self._client.run(submit_group(self.id, group, self._client.patience))
            items += [item.model_copy(update={"index": len(items) + item.index}) for item in results]
        return batch_of(items)

    def task(self, task_id: str) -> Task:
        """Return the task with this id. It is not looked up."""
        return Task(self, task_id)

    @takes(TaskFilterFields)
    def tasks(self, **filters: Unpack[TaskFilterFields]) -> Iterator[TaskInfo]:
        """Iterate over the tasks that match all filters, newest first, without their inputs and outputs.

        Each task that matches throughout comes once, also while others are added and removed.
        """
        query, cursor = calls.filter_query(filters), ""
        while True:
            rows, following = self._client.run(calls.page(self.id, query, cursor, self._client.patience()))
            yield from rows
            if following is None:
                return
            cursor = following

    @takes(TaskFilterFields)
    def cancel_tasks(
        self,
        *,
        task_ids: Sequence[str] | None = None,
        dry_run: bool = False,
        operation_id: str | None = None,
        **filters: Unpack[TaskFilterFields],
    ) -> Operation:
        """Cancel all tasks that match, or those with these ids, in the background.

        `filters` are those of `TaskFilterFields`, at least one unless there are `task_ids`. `dry_run` only counts. A
        repeated call with the same `operation_id` (1–64 of `[A-Za-z0-9_]`) returns the operation of the first.
        """
        return self._operate("cancel", filters, task_ids, dry_run, operation_id)

    @takes(TaskFilterFields)
    def retry_tasks(
        self,
        *,
        task_ids: Sequence[str] | None = None,
        dry_run: bool = False,
        operation_id: str | None = None,
        **filters: Unpack[TaskFilterFields],
    ) -> Operation:
        """Run all ended tasks that match again, or those with these ids, in the background. See `cancel_tasks`."""
        return self._operate("retry", filters, task_ids, dry_run, operation_id)

    @takes(TaskFilterFields)
    def delete_tasks(
        self,
        *,
        task_ids: Sequence[str] | None = None,
        dry_run: bool = False,
        operation_id: str | None = None,
        **filters: Unpack[TaskFilterFields],
    ) -> Operation:
        """Delete all ended tasks that match, or those with these ids, in the background. See `cancel_tasks`."""
        return self._operate("delete", filters, task_ids, dry_run, operation_id)

    @takes(TaskFilterFields)
    def redeliver_tasks(
        self,
        *,
        task_ids: Sequence[str] | None = None,
        dry_run: bool = False,
        operation_id: str | None = None,
        **filters: Unpack[TaskFilterFields],
    ) -> Operation:
        """Send the results of all ended tasks that match to their webhooks again, or of those with these ids, in the
        background. See `cancel_tasks`.
        """
        return self._operate("redeliver", filters, task_ids, dry_run, operation_id)

    def operation(self, operation_id: str) -> Operation:
        """Return the bulk operation with this id. It is not looked up."""
        return Operation(self, operation_id)

    def operations(self) -> Iterator[OperationInfo]:
        """Iterate over the bulk operations, newest first."""
        number, more = 1, True
        while more:
            flow = calls.operation_page(self.id, number, self.patience())
            rows, more = self.run(flow)
            yield from rows
            number += 1

    def _operate(
        self,
        action: str,
        filters: TaskFilterFields,
        task_ids: Sequence[str] | None,
        dry_run: bool,
        operation_id: str | None,
    ) -> Operation:
        flow = calls.start_operation(
            self.id,
            action,
            filters,
            task_ids=task_ids,
            dry_run=dry_run,
            operation_id=operation_id,
            patience=self.patience(),
        )
        return Operation(self, (self.run(flow)).operation_id)

    def count(self) -> TaskCounts:
        """Count the tasks."""
        return TaskCounts.model_validate(self.call("GET", "tasks", "count"))

    @takes(SubmitFields)
    def map(
        self,
        inputs: Iterable[Any],
        *,
        path: str = "/",
        port: int | None = None,
        window: int = DEFAULT_WINDOW,
        ordered: bool = False,
        batch_id: str | None = None,
        progress: bool = False,
        **fields: Unpack[SubmitFields],
    ) -> Iterator[MapItem]:
        """Run a task for each input, and iterate over their results as they come; in the order of inputs if `ordered`.

        A failed task is a result too: its `error` is set. At most `window` inputs are under way, so the inputs may be
        endless. With a `batch_id` (1–64 of `[A-Za-z0-9_]`), the same call after an interruption goes on where it was:
        tasks that were submitted before are not run again. `progress` shows a progress bar on a terminal.
        """
        tasks = TaskMap(inputs, window=window, ordered=ordered, batch_id=batch_id)
        lines = self._lines(path, port, fields)
        with MapProgress(inputs, shown=progress) as bar:
            while True:
                while group := tasks.take_group(lines.of):
                    self._submit(group)
                for item in tasks.results():
                    bar.ended(item)
                    yield item
                if tasks.is_done:
                    return
                if asked := tasks.waiting():
                    ended = self._run_for_map(calls.ended_of(self.id, asked, self._client.patience()))
                    tasks.note_all(ended, asked=asked)

    @takes(UpdateFields)
    def update(self, *, if_match: str | None = None, **settings: Unpack[UpdateFields]) -> EndpointInfo:
        """Change settings. None clears a setting.

        With `if_match`, the `etag` of an `info`, this and the following changes raise an ApiError of status 412 if the
        endpoint was changed, started, stopped or paused since then.
        """
        request = Request("PATCH", path_of(self.id), body=calls.body_of(settings), if_match=if_match)
        return self.run(calls.endpoint_in(request, self.patience()))

    def start(self, *, if_match: str | None = None) -> None:
        """Start the workers of a stopped endpoint."""
        self.call("POST", "start", if_match=if_match)

    def stop(self, *, if_match: str | None = None) -> None:
        """Stop the workers. Tasks that wait are kept."""
        self.call("POST", "stop", if_match=if_match)

    def pause(self, *, if_match: str | None = None) -> None:
        """Let the workers begin no further tasks. Running tasks go on, and new ones are accepted."""
        self.call("POST", "pause", if_match=if_match)

    def resume(self, *, if_match: str | None = None) -> None:
        """Let the workers of a paused endpoint begin tasks again."""
        self.call("POST", "resume", if_match=if_match)

    def scale(self, workers: int) -> None:
        """Set the number of workers."""
        self.call("PUT", "workers", query={"count": workers})

    def delete(self, *, if_match: str | None = None) -> None:
        """Delete the endpoint and its tasks."""
        self.call("DELETE", if_match=if_match)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers, oldest first."""
        return [WorkerInfo.model_validate(row) for row in self.call("GET", "workers")]

    @takes(LogFields)
    def logs(self, worker_id: str, *, follow: bool = False, **query: Unpack[LogFields]) -> Iterator[LogLine]:
        """Iterate over the lines of a worker's log, oldest first. `follow` goes on with lines that are added later.

        `query` has `keyword`, `start_time` or `end_time`.
        """
        asked, place = calls.filter_query(query), None
        while True:
            lines, place, more = self._client.run(
                calls.log_page(self.id, worker_id, place, asked, self._client.patience())
            )
            yield from lines
            if more:
                continue
            if not follow:
                return
            time.sleep(LOG_POLL_SECONDS)  # noqa: TID251 - the API has no way to wait for lines

    def call(self, method: str, *parts: str, **of_request: Any) -> Any:
        """Call the API for this endpoint, and return the data of the response."""
        return self.run(call(Request(method, path_of(self.id, *parts), **of_request), self._client.patience()))

    def run(self, flow: Flow[T]) -> T:
        return self._client.run(flow)

    def patience(self, seconds: float | None = None) -> Patience:
        return self._client.patience(seconds)

    def _lines(self, path: str, port: int | None, fields: SubmitFields) -> TaskLines:
        """Return what makes the lines of tasks with these fields."""
        return TaskLines({**fields, "process_uri": path, "worker_port": self._port_of(port)})

    def _submit(self, lines: Sequence[bytes]) -> None:
        """Submit the tasks of a map. Raises the error of the first task that is rejected."""
        for item in self._run_for_map(submit_group(self.id, lines, self._client.patience)):
            if item.error is not None:
                raise item.error

    def _run_for_map(self, flow: Flow[T]) -> T:
        """Run an operation. Ctrl-C raises a new exception, because the frames of a connection say nothing to users."""
        try:
            return self._client.run(flow)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(INTERRUPTED) from None

    def _port_of(self, port: int | None) -> int:
        if port is None and self._port is None:
            try:
                self._found()
            except Forbidden as error:
                raise calls.forbidden(error, calls.NEEDS_PORT) from None
        found = port or self._port
        if found is None:
            raise ValueError("port: is required, because the endpoint exposes no port")
        return found

    def __repr__(self) -> str:
        return f"Endpoint({self._id or self._id_or_name!r})"


class Task:
    """A task of an endpoint. Get it from `Endpoint.submit` or `Endpoint.task`."""

    def __init__(self, endpoint: Endpoint, task_id: str) -> None:
        self._endpoint = endpoint
        self.id = task_id

    def info(self, payload: Literal["full", "head", "none"] = "full") -> TaskInfo:
        """Read the task, with its input and output; with their beginnings only, or without them, by `payload`."""
        return self._endpoint.run(calls.read(self._endpoint.id, self.id, payload, self._endpoint.patience()))

    def download_input(self) -> Download:
        """Return the input as the bytes that were submitted."""
        return self._download("input")

    def download_output(self) -> Download:
        """Return the output as the bytes that the container returned. Raises NotFound if there is none."""
        return self._download("output")

    def waiting(self) -> Waiting | None:
        """Return the reason for which the task waits; None if it runs or has ended."""
        return self.info("none").waiting

    def wait(self, timeout: float | None = None) -> TaskInfo:
        """Wait until the task has ended, and return it, also if it has failed. Raises WaitTimeout.

        `timeout` is in seconds; None waits for any time.
        """
        patience = self._endpoint.patience(float("inf") if timeout is None else timeout)
        return self._endpoint.run(calls.wait(self._endpoint.id, self.id, timeout, patience, self._endpoint.patience))

    def result(self, timeout: float | None = None, *, cancel_on_interrupt: bool = False) -> Any:
        """Wait for the output of the task, and return it. Raises TaskFailed or WaitTimeout.

        After a WaitTimeout or Ctrl-C the task goes on; with `cancel_on_interrupt`, Ctrl-C cancels it.
        """
        try:
            return calls.output_of(self.wait(timeout))
        except KeyboardInterrupt:
            if cancel_on_interrupt:
                self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel the task. An ended task is not changed."""
        self._order("cancel")

    @takes(CloneFields)
    def clone(self, *, task_id: str | None = None, **changes: Unpack[CloneFields]) -> Task:
        """Submit a copy of the task, and return it without waiting for its end.

        The copy has all fields of the task but those in `changes`. With another path or port the headers are not
        copied, and with another webhook its key is not. The id is made here if it is not given, so a request that is
        repeated runs nothing twice.
        """
        task_id = task_id or calls.new_task_id()
        endpoint = self._endpoint
        endpoint.run(calls.clone(endpoint.id, self.id, {**changes, "task_id": task_id}, endpoint.patience()))
        return Task(endpoint, task_id)

    def retry(self) -> None:
        """Run an ended task again. Its result is removed."""
        self._order("retry", repeatable=False)

    def redeliver(self) -> None:
        """Send the result to the webhook again."""
        self._order("deliveries/redeliver", repeatable=False)

    def delete(self) -> None:
        """Delete an ended task with its input and output."""
        self._endpoint.call("DELETE", "tasks", self.id)

    def attempts(self) -> list[Attempt]:
        """Return the latest attempts, oldest first."""
        return [Attempt.model_validate(row) for row in self._endpoint.call("GET", "tasks", self.id, "attempts")]

    def deliveries(self) -> list[Delivery]:
        """Return the latest attempts to deliver the result, oldest first."""
        return [Delivery.model_validate(row) for row in self._endpoint.call("GET", "tasks", self.id, "deliveries")]

    def _download(self, part: str) -> Download:
        return self._endpoint.run(calls.download(self._endpoint.id, self.id, part, self._endpoint.patience()))

    def _order(self, name: str, *, repeatable: bool = True) -> None:
        patience = self._endpoint.patience()
        self._endpoint.run(calls.order(self._endpoint.id, self.id, name, patience, repeatable=repeatable))

    def __repr__(self) -> str:
        return f"Task({self.id!r}, endpoint={self._endpoint!r})"


class Operation:
    """A bulk operation on tasks of an endpoint. Get it from `Endpoint.cancel_tasks` and the like."""

    def __init__(self, endpoint: Endpoint, operation_id: str) -> None:
        self._endpoint = endpoint
        self.id = operation_id

    def info(self) -> OperationInfo:
        """Read the operation."""
        flow = calls.read_operation(self._endpoint.id, self.id, self._endpoint.patience())
        return self._endpoint.run(flow)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> OperationInfo:
        """Wait until the operation has ended, and return it. Raises OperationTimeout.

        `timeout` is in seconds; None waits for any time. `progress` shows a progress bar on a terminal. An operation
        that has failed or was cancelled is returned too: see its `status`.
        """
        waiting = self._endpoint.patience(float("inf") if timeout is None else timeout)
        with OperationProgress(shown=progress) as bar:
            flow = calls.wait_for_operation(
                self._endpoint.id, self.id, timeout, waiting, self._endpoint.patience, bar.show
            )
            return self._endpoint.run(flow)

    def cancel(self) -> OperationInfo:
        """Cancel the operation. Tasks that it has not come to are not changed."""
        flow = calls.cancel_operation(self._endpoint.id, self.id, self._endpoint.patience())
        return self._endpoint.run(flow)

    def __repr__(self) -> str:
        return f"Operation({self.id!r}, endpoint={self._endpoint!r})"
