"""`queue-engine up`: the whole engine on one machine, in child processes that are stopped together."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.crypto.sealing import new_secret_key
from queue_engine.crypto.secret_files import FILE_SUFFIX, secret_from
from queue_engine.domain.agent_protocol import CONTAINER_COMMAND, END_MARGIN_SECONDS
from queue_engine.domain.errors import EngineError
from queue_engine.domain.workers_left import WorkersLeft
from queue_engine.local.embedded import EmbeddedStore, EmbeddedStoreError
from queue_engine.net.ports import free_port, is_free
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.interpreter import python_command, python_path
from queue_engine.processes.orphans import become_subreaper
from queue_engine.processes.process_groups import passed_on
from queue_engine.processes.progress import Progress
from queue_engine.processes.start_notice import NOTICE_VARIABLE, Facts, NoticePipe
from queue_engine.processes.supervisor import OrphanPolicy, Program, ProgramError, ProgramExit, Supervisor
from queue_engine.rules.hosts import bracketed, is_loopback

READY_SECONDS = 60.0
"""Time without progress after which the start of the API is given up."""
LOOK_SECONDS = 1.0
"""Interval at which the progress of the API's start is looked at."""
LOADING_SECONDS = 1.0
"""Time for which the store loads data without a word, and the interval of the progress after it."""
FIRST_WORD_SECONDS = 10.0
"""Time after which a person at the terminal reads what the start waits for. The time until the next word doubles."""
WORKER_GRACE_SECONDS = 10.0
"""Time for which tasks may continue after Ctrl-C, unless QUEUE_ENGINE_WORKER_GRACE_SECONDS is set."""
CONTROLLER_MARGIN_SECONDS = 10.0
"""Time that the controller has to end after its last worker has ended."""
ROLES = ("api", "controller", "delivery")
"""The order of starts, and of stops where workers are processes."""
ROLES_BY_USE = ("controller", "api", "delivery")
"""The order of stops where workers are containers, because their agents use the API until they have drained."""
CONTAINERS_MARGIN_SECONDS = 75.0
"""Time to list and to remove the containers besides the grace period, in place of what processes need."""
_OF_CONTAINER_PLATFORMS = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR", "KUBECONFIG")
"""Variables of the controller by which it finds the container engine or the cluster."""
AGENT_PORT_OFFSET = 3
"""Distance of the port for agents in containers from the API's, after the ports of the metrics."""
EXIT_LEFT = 1
"""Exit status of an `up` that has ended, and has not removed all that it made on the container platform."""


@dataclass(frozen=True)
class _Platform:
    """A platform of containers, in words for a person."""

    name: str
    workers: str
    list_command: str
    """Lists the workers of all engines on the platform, because the names of one are not known without its store."""


PLATFORMS = {
    "docker": _Platform(
        "the container engine", "containers of workers", "docker ps --all --filter label=queue-engine/worker"
    ),
    "kubernetes": _Platform(
        "the cluster", "pods of workers", "kubectl get pods --all-namespaces --selector queue-engine/worker"
    ),
}
"""The platforms of the backends whose workers outlive their controller."""


@dataclass(frozen=True)
class UpOptions:
    """The options of the command line. `environment` is this process's own."""

    host: str
    port: int
    data_dir: Path
    redis_url: str | None = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    max_memory: int = 0
    """Memory limit of the embedded store in bytes; 0: no limit."""
    on_terminal: bool = False
    """True if the output is a terminal. Only a terminal shows the API key."""


async def run_up(options: UpOptions, say: Callable[[str], None] | None = None) -> int:
    """Run all processes until SIGINT or SIGTERM; return the exit status.

    All processes have ended when it returns or raises. A second signal kills them at once. Raises EngineError if a
    process cannot start. The status is EXIT_LEFT if containers of workers may be left.
    """
    stack = _Stack(options, say or _say)
    ended = _Ended(stack)
    try:
        await ended.unless_first(stack.start())
        await ended.wait()
        stack.say(f"\nstopping: {stack.grace}, the others are queued again ({stack.at_once})")
    except (EmbeddedStoreError, ProgramError) as error:
        raise EngineError(str(error)) from error
    finally:
        left = await stack.stop()
    if left is not None:
        stack.say(f"warning: {left}")
    stack.say("stopped")
    return 0 if left is None else EXIT_LEFT


class _Ended:
    """SIGINT and SIGTERM: the first requests a graceful shutdown, the second kills all processes."""

    def __init__(self, stack: _Stack) -> None:
        self._stack = stack
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    async def wait(self) -> None:
        await self._asked.wait()

    async def unless_first(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, and cancel it if the end is requested before it is done."""
        doing = asyncio.create_task(work)
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait((doing, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not doing.done():
            doing.cancel()
        with suppress(asyncio.CancelledError):
            await doing

    def _on_signal(self) -> None:
        if self._asked.is_set():
            self._stack.kill()
        self._asked.set()


class _Stack:
    def __init__(self, options: UpOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self.say = say
        self._data_dir = options.data_dir.absolute()
        self._store: EmbeddedStore | None = None
        self._supervisor: Supervisor | None = None
        self._notice = NoticePipe()
        """The pipe with which the API tells that it serves, and about the first key."""
        self._role_ended = asyncio.Event()
        self._logs = {role: BoundedLog(self._data_dir / "logs" / f"{role}.log") for role in ROLES}

    async def start(self) -> None:
        if not is_free(self._options.port):
            raise EngineError(f"port {self._options.port} is in use: choose another with --port")
        self._make_data_dir()
        secret_key, api_key = self._secret_key(), self._api_key()
        redis_url = self._options.redis_url or await self._embedded_store()
        metrics_ports = self._metrics_ports()
        # Agents of a killed controller drain, so they get the time that a drain takes before they are killed.
        seconds = self._grace_seconds() + END_MARGIN_SECONDS
        orphans = OrphanPolicy(_is_agent, seconds) if become_subreaper() else None
        self._supervisor = Supervisor(on_exit=self._on_exit, orphans=orphans)
        for role in ROLES:
            environment = self._environment(role, redis_url, secret_key, api_key, metrics_ports)
            log = self._logs[role]
            log.begin()
            command = python_command("queue_engine", role)
            # Longer than the grace period of workers, because the controller must outlive them.
            margin_seconds = CONTAINERS_MARGIN_SECONDS if self._runs_containers else END_MARGIN_SECONDS
            grace_seconds = self._grace_seconds() + margin_seconds + CONTROLLER_MARGIN_SECONDS
            inherited = (self._notice.fd,) if role == "api" else ()
            self._supervisor.start(Program(role, command, environment, log, grace_seconds, inherited))
        self.say("starting: " + ", ".join(ROLES))
        self._greet(await self._api_notice(), api_key, metrics_ports)

    async def stop(self) -> str | None:
        """Stop all processes; return a warning for the person at the terminal if workers may be left, else None."""
        statuses: Mapping[str, int | None] = {}
        if self._supervisor is not None:
            statuses = await self._supervisor.stop(ROLES_BY_USE if self._runs_containers else ROLES)
            await self._supervisor.aclose()
        if self._store is not None:
            await self._store.stop()
        self._notice.close()
        return self._workers_left(statuses.get("controller"))

    def _workers_left(self, status: int | None) -> str | None:
        """Return what may be left, why, and what to do, by the exit status of the controller. None: nothing is left."""
        platform = PLATFORMS.get(self._options.environment.get("QUEUE_ENGINE_BACKEND", ""))
        if platform is None or not status:
            return None
        reasons: dict[int, str] = {
            WorkersLeft.UNLISTED: f"{platform.name} did not list them",
            WorkersLeft.NOT_ENDED: f"{platform.name} did not end them",
            WorkersLeft.NOT_LEADING: "another controller leads, or the store did not respond",
        }
        reason = reasons.get(status, "the controller ended before it had removed them")
        return (
            f"{platform.workers} may be left: {reason} (logs: {self._data_dir / 'logs' / 'controller.log'}). To remove "
            f"them, start `up` again while {platform.name} responds, and end it. To list them: {platform.list_command}"
        )

    def kill(self) -> None:
        if self._supervisor is not None:
            self._supervisor.kill()
        if self._store is not None:
            self._store.kill()

    @property
    def grace(self) -> str:
        """The time that running tasks have after Ctrl-C, in words."""
        return f"running tasks have {self._grace_seconds():g} s to finish"

    @property
    def at_once(self) -> str:
        """The effect of a second Ctrl-C, in words."""
        left = ", and leave the workers' containers to the next start" if self._runs_containers else ""
        return f"Ctrl-C again: stop at once{left}"

    @property
    def _runs_containers(self) -> bool:
        return self._options.environment.get("QUEUE_ENGINE_BACKEND") in PLATFORMS

    @property
    def base_url(self) -> str:
        host = self._options.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - shown to a person on this machine
            host = "127.0.0.1"
        return f"{self._scheme}://{bracketed(host)}:{self._options.port}"

    @property
    def _scheme(self) -> str:
        return "https" if self._options.environment.get("QUEUE_ENGINE_TLS_CERT") else "http"

    # The environment of the processes

    def _environment(
        self, role: str, redis_url: str, secret_key: str, api_key: str, ports: Mapping[str, int]
    ) -> dict[str, str]:
        given, metrics_port = self._options.environment, ports.get(role)
        environment = {
            "QUEUE_ENGINE_WEBHOOK_LOOPBACK": str(self._allows_loopback),
            "QUEUE_ENGINE_API_METRICS": "public",
            **({} if self._runs_containers else {"QUEUE_ENGINE_EXAMPLE_WORKER": _example_worker()}),
            "QUEUE_ENGINE_WORKER_GRACE_SECONDS": str(WORKER_GRACE_SECONDS),
            "QUEUE_ENGINE_WORK_DIR": str(self._data_dir / "workers"),
            **passed_on(given),
            **python_path(given),
            **{name: value for name, value in given.items() if name.startswith("QUEUE_ENGINE_") and value},
            "QUEUE_ENGINE_REDIS_URL": redis_url,
            "QUEUE_ENGINE_SECRET_KEY": secret_key,
            "QUEUE_ENGINE_HOST": self._options.host,
            "QUEUE_ENGINE_PORT": str(self._options.port),
            **self._own_places(ports),
            **self._agent_places(),
        }
        for name in ("QUEUE_ENGINE_REDIS_URL", "QUEUE_ENGINE_SECRET_KEY", "QUEUE_ENGINE_API_KEY"):
            environment.pop(name + FILE_SUFFIX, None)
        environment.pop("QUEUE_ENGINE_API_KEY", None)
        if self._store is not None:
            environment.pop("QUEUE_ENGINE_AGENT_REDIS_URL" + FILE_SUFFIX, None)
            environment["QUEUE_ENGINE_AGENT_REDIS_URL"] = self._store.agent_url
        if role == "api":
            environment["QUEUE_ENGINE_API_KEY"] = api_key
            environment[NOTICE_VARIABLE] = str(self._notice.fd)
        if role == "controller" and self._runs_containers:
            environment |= {name: given[name] for name in _OF_CONTAINER_PLATFORMS if name in given}
            environment["QUEUE_ENGINE_END_WORKERS"] = "true"
        if metrics_port is not None:
            environment["QUEUE_ENGINE_METRICS_PORT"] = str(metrics_port)
        return environment

    @property
    def _allows_loopback(self) -> bool:
        """True if webhooks of a single tenant may go to loopback. The operator's list has precedence, even if empty."""
        explicit = "QUEUE_ENGINE_WEBHOOK_ALLOW" in self._options.environment
        return not explicit and is_loopback(self._options.host)

    def _own_places(self, metrics_ports: Mapping[str, int]) -> dict[str, str]:
        """Return the ports of the engine, to which webhooks are refused; each process adds the addresses of stores."""
        given = self._options.environment
        agent_port = self._agent_places().get("QUEUE_ENGINE_AGENT_PORT")
        ports = sorted({self._options.port, *metrics_ports.values(), *([int(agent_port)] if agent_port else [])})
        return {"QUEUE_ENGINE_OWN_PORTS": ",".join([*map(str, ports), given.get("QUEUE_ENGINE_OWN_PORTS", "")])}

    def _agent_places(self) -> dict[str, str]:
        """Return where the API listens for agents in containers, and their URL; empty without QUEUE_ENGINE_AGENT_HOST.

        The port is the same after a restart, because containers that outlive the engine have it.
        """
        given = self._options.environment
        host = given.get("QUEUE_ENGINE_AGENT_HOST")
        if not host:
            return {}
        port = given.get("QUEUE_ENGINE_AGENT_PORT") or str(self._options.port + AGENT_PORT_OFFSET)
        url = given.get("QUEUE_ENGINE_AGENT_URL") or f"http://{bracketed(host)}:{port}"
        return {"QUEUE_ENGINE_AGENT_PORT": port, "QUEUE_ENGINE_AGENT_URL": url}

    def _grace_seconds(self) -> float:
        given = self._options.environment.get("QUEUE_ENGINE_WORKER_GRACE_SECONDS")
        return float(given) if given else WORKER_GRACE_SECONDS

    def _metrics_ports(self) -> dict[str, int]:
        """Return the ports after the API's if they are free, so that they are the same after a restart."""
        ports: dict[str, int] = {}
        for offset, role in enumerate(("controller", "delivery"), start=1):
            wanted = self._options.port + offset
            taken = {self._options.port, *ports.values()}
            ports[role] = wanted if wanted <= 65535 and is_free(wanted) else free_port(taken)
        return ports

    async def _embedded_store(self) -> str:
        for name in ("QUEUE_ENGINE_REDIS_URL", "QUEUE_ENGINE_REDIS_URL_FILE"):
            if self._options.environment.get(name):
                self.say(f"{name} is ignored: `up` has its own store. Use --redis-url for another one")
        self.say(f"starting: embedded store in {self._data_dir / 'store'}")
        self._store = EmbeddedStore(
            self._data_dir / "store",
            environment=self._options.environment,
            options={"maxmemory": str(self._options.max_memory)},
            on_loading=_Loading(self.say).look,
            on_exit=self._on_exit,
        )
        return await self._store.start()

    # State that is kept between runs

    def _make_data_dir(self) -> None:
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._data_dir / ".probe").touch()
            (self._data_dir / ".probe").unlink()
        except OSError as error:
            raise EngineError(f"--data-dir {self._data_dir}: {error.strerror}") from error

    def _secret_key(self) -> str:
        given = secret_from(self._options.environment, "QUEUE_ENGINE_SECRET_KEY")
        return given or self._kept("secret-key", new_secret_key)

    def _api_key(self) -> str:
        return secret_from(self._options.environment, "QUEUE_ENGINE_API_KEY") or self._kept("api-key", new_api_key)

    def _kept(self, name: str, make: Callable[[], str]) -> str:
        """Return the text of a file in the data directory, created at the first start. Only this user can read it."""
        path = self._data_dir / name
        with suppress(FileNotFoundError):
            if kept := path.read_text().strip():
                return kept
        text = make()
        draft = path.with_name(f".{name}-{secrets.token_hex(4)}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "w") as file:
                file.write(f"{text}\n")
            draft.replace(path)
        except OSError as error:
            raise EngineError(f"--data-dir: {path} cannot be written: {error.strerror}") from error
        return text

    # Watching

    async def _api_notice(self) -> Facts:
        """Wait until the API serves, and return what it tells.

        Raises EngineError if a process ends before, or if the API makes no progress.
        """
        notice = asyncio.create_task(self._notice.first())
        failure = asyncio.create_task(self._role_ended.wait())
        slow_start = _SlowStart(self._logs["api"], self.say)
        try:
            while not notice.done():
                await asyncio.wait((notice, failure), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                self._check_none_failed()
                if not notice.done():
                    slow_start.look(self._pid_of("api"))
            return notice.result()
        finally:
            notice.cancel()
            failure.cancel()

    def _pid_of(self, name: str) -> int | None:
        state = self._supervisor.states().get(name) if self._supervisor is not None else None
        return None if state is None else state.pid

    def _check_none_failed(self) -> None:
        """Raise EngineError if a program has ended during the start, because waiting would not help."""
        states = self._supervisor.states() if self._supervisor is not None else {}
        for name, state in states.items():
            if state.last_exit is not None:
                lines = self._logs[name].last_lines(5)
                raise EngineError("\n".join([f"{state.last_exit}:", *lines]))

    def _on_exit(self, end: ProgramExit) -> None:
        logs = self._data_dir / "logs"
        if end.name in ROLES:
            self._role_ended.set()
        with suppress(OSError):  # an output that cannot be written must not stop the restart
            self.say(f"{end.reason}; restarting it in {end.restart_in_seconds:g} s (logs: {logs})")

    def _greet(self, facts: Facts, api_key: str, metrics_ports: Mapping[str, int]) -> None:
        problem, alone = facts["key_problem"], bool(facts["has_one_tenant"])
        metrics = [f"{self.base_url}/metrics", *(f"http://127.0.0.1:{port}/metrics" for port in metrics_ports.values())]
        shown, in_shell = self._shown_key(api_key)
        self.say(
            f"""
queue-engine is up

  Console    {self._console(facts)}
  Base URL   {self.base_url}
  API key    {shown}
  Data       {self._data_dir}
  API docs   {self.base_url}/docs
  Metrics    {"  ".join(metrics)}
  Webhooks   {self._webhooks(alone=alone)}

Try it:

  curl -s {self.base_url}/v2/serverless -H {in_shell}

Ctrl-C stops everything."""
        )
        if problem is not None:
            self.say(f"\nwarning: {problem}")

    def _console(self, facts: Facts) -> str:
        """Return the address of the web console. Only a terminal shows the link that logs in."""
        if self._options.environment.get("QUEUE_ENGINE_CONSOLE") == "off":
            return "off (QUEUE_ENGINE_CONSOLE)"
        base = self._options.environment.get("QUEUE_ENGINE_PUBLIC_URL", self.base_url).rstrip("/")
        token = facts.get("console_link") if self._options.on_terminal else None
        if token:
            return f"{base}/console#login={token}\n             (logs in once, within 10 minutes)"
        return f"{base}/console (`queue-engine console --open` logs in)"

    def _shown_key(self, api_key: str) -> tuple[str, str]:
        """Return the API key as it is shown, and its header as a shell word; only a terminal shows the key itself."""
        given = self._options.environment
        if self._options.on_terminal:
            return api_key, f"'X-Api-Key: {api_key}'"
        if given.get("QUEUE_ENGINE_API_KEY"):
            return "from QUEUE_ENGINE_API_KEY", '"X-Api-Key: $QUEUE_ENGINE_API_KEY"'
        path = given.get("QUEUE_ENGINE_API_KEY" + FILE_SUFFIX) or str(self._data_dir / "api-key")
        return f"in {path}", f'"X-Api-Key: $(cat {shlex.quote(path)})"'

    def _webhooks(self, *, alone: bool) -> str:
        allowed = self._options.environment.get("QUEUE_ENGINE_WEBHOOK_ALLOW")
        if allowed:
            return f"to public addresses, and to {allowed}"
        if self._allows_loopback and alone:
            return "to public addresses, and to loopback while there is one tenant"
        reason = "QUEUE_ENGINE_WEBHOOK_ALLOW is empty"
        if allowed is None:
            reason = "there is a second tenant" if self._allows_loopback else "--host is not loopback"
        return f"to public addresses only: {reason}"


class _Loading:
    """The loading of the store's data: a line when it begins, and its progress once it takes longer than a moment."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._next_word: float | None = None

    def look(self, percent: float) -> None:
        """Take the share that is loaded, which is read many times a second."""
        now = self._clock()
        if self._next_word is None:
            self._say("loading the data")
        elif now >= self._next_word:
            self._say(f"loading the data: {percent:.0f} %")
        else:
            return
        self._next_word = now + LOADING_SECONDS


class _SlowStart:
    """A start of the API that takes long: `look` says what it waits for, and gives it up when it makes no progress."""

    def __init__(
        self, log: BoundedLog, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._say = say
        self._clock = clock
        self._progress = Progress(log.path)
        self._began = self._went_on = clock()
        self._next_word_seconds = FIRST_WORD_SECONDS

    def look(self, pid: int | None) -> None:
        """Look at the process. Raises EngineError if it has made no progress for READY_SECONDS."""
        now = self._clock()
        if self._progress.look(pid):
            self._went_on = now
        seconds = now - self._began
        if now - self._went_on >= READY_SECONDS:
            raise EngineError(
                f"the API (process {pid}) does not serve after {seconds:.0f} s, and has made no progress for "
                f"{now - self._went_on:.0f} s. {self._state()}"
            )
        if seconds >= self._next_word_seconds:
            self._next_word_seconds *= 2
            self._say(f"waiting for the API (process {pid}) for {seconds:.0f} s. {self._state()}")

    def _state(self) -> str:
        used = f"It has used {self._progress.processor_seconds:.1f} s of processor time"
        lines = self._log.last_lines(1)
        return (
            f"{used}. The end of {self._log.path}: {lines[0]}"
            if lines
            else f"{used}, and has written nothing to {self._log.path}"
        )


def _example_worker() -> str:
    """Return the command of the example worker in the interpreter of this process."""
    return shlex.join(python_command("queue_engine.example_worker"))


def _is_agent(pid: int) -> bool:
    try:
        return CONTAINER_COMMAND in psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return False


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
