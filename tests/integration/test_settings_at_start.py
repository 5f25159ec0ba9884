"""Messages of each process about its environment at start, and secrets that it reads from files."""

from pathlib import Path

import pytest

from queue_engine.domain.tasks import TaskState
from queue_engine.store.store import Store
from tests.integration.parts import SECRET_KEY, HttpServer, Programs, ended, new_endpoint, submit
from tests.ports import free_port
from tests.waiting import wait_until

CANARY = "canary-91f3"
HINT = "unknown variable QUEUE_ENGINE_SECRET_KEYS: did you mean QUEUE_ENGINE_SECRET_KEY?"
MISSPELLED = {"QUEUE_ENGINE_SECRET_KEYS": CANARY}
COMMANDS = {
    "api": ("queue_engine", "api", "--port", "0"),
    "delivery": ("queue_engine", "delivery"),
    "controller": ("queue_engine", "controller"),
    "agent": ("worker_agent", "--endpoint", "1"),
}
SHORT_COMMANDS = {
    "version": ("queue_engine", "version"),
    "keys": ("queue_engine", "keys", "list"),
    "console": ("queue_engine", "endpoints", "list", "--url", "http://127.0.0.1:9"),
    "up": ("queue_engine", "up", "--redis-url", "nonsense"),
    "agent that cannot start": ("worker_agent", "--endpoint", "x"),
}


@pytest.fixture
def programs(executed_programs: Programs) -> Programs:
    return executed_programs


@pytest.mark.parametrize("name", COMMANDS)
def test_a_process_logs_which_variables_it_does_not_know(programs: Programs, name: str) -> None:
    program = programs.start(name, *COMMANDS[name], **MISSPELLED)
    line = wait_until(lambda: [one for one in program.output().splitlines() if HINT in one])[0]
    assert line.startswith("{")
    assert "WARNING" in line
    assert CANARY not in program.output()


@pytest.mark.parametrize("name", SHORT_COMMANDS)
def test_a_command_says_which_variables_it_does_not_know(programs: Programs, name: str) -> None:
    program = programs.start("command", *SHORT_COMMANDS[name], **MISSPELLED)
    program.wait()
    assert program.output().count(HINT) == 1
    assert CANARY not in program.output()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_secret_in_both_forms_is_an_error_that_names_both(programs: Programs, name: str) -> None:
    program = programs.start(name, *COMMANDS[name], QUEUE_ENGINE_SECRET_KEY_FILE="/nowhere")
    assert program.wait() == 2
    assert "QUEUE_ENGINE_SECRET_KEY and QUEUE_ENGINE_SECRET_KEY_FILE are both set" in program.output()
    assert "Traceback" not in program.output()


@pytest.mark.parametrize("command", [("delivery",), ("api", "--port", "0"), ("controller",), ("up", "--port", "1")])
def test_the_removed_delivery_profile_is_refused_at_start(programs: Programs, command: tuple[str, ...]) -> None:
    program = programs.start("command", "queue_engine", *command, QUEUE_ENGINE_DELIVERY_PROFILE="upstream")
    assert program.wait() == 2
    (line,) = program.output().splitlines()
    assert line.startswith("queue-engine: QUEUE_ENGINE_DELIVERY_PROFILE ")
    assert line.endswith(" QUEUE_ENGINE_DELIVERY_SCHEDULE=60,300,900")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_secret_file_that_cannot_be_read_is_named(programs: Programs, name: str) -> None:
    program = programs.start(
        name, *COMMANDS[name], QUEUE_ENGINE_SECRET_KEY="", QUEUE_ENGINE_SECRET_KEY_FILE="/nowhere/key"
    )
    assert program.wait() == 2
    assert "QUEUE_ENGINE_SECRET_KEY_FILE: cannot read /nowhere/key: No such file" in program.output()


@pytest.mark.parametrize("prefix", ["QUEUE_ENGINE_", "WORKER_AGENT_"])
async def test_an_agent_reads_its_secrets_from_files(
    store: Store, programs: Programs, container: HttpServer, tmp_path: Path, valkey_url: str, prefix: str
) -> None:
    files = {"SECRET_KEY": SECRET_KEY, "REDIS_URL": valkey_url}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, headers={"X-Token": CANARY})
    named = {f"{prefix}{name}_FILE": str(tmp_path / name) for name in files}
    own = {"QUEUE_ENGINE_SECRET_KEY": "", "QUEUE_ENGINE_REDIS_URL": ""} | named
    programs.start("agent", *COMMANDS["agent"][:-1], endpoint_id, "--container-url", container.url, **own)
    assert container.next().headers["x-token"] == CANARY
    assert (await ended(store, endpoint_id)).state is TaskState.SUCCEEDED


AWAY = "the store is away: it cannot be reached at 127.0.0.1:1 (QUEUE_ENGINE_REDIS_URL)"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_process_that_waits_for_its_store_says_where_it_looks_for_it(programs: Programs, name: str) -> None:
    url = f"redis://user:{CANARY}@127.0.0.1:1/0"
    program = programs.start(name, *COMMANDS[name], QUEUE_ENGINE_REDIS_URL=url)
    wait_until(lambda: AWAY in program.output(), 30, "the log does not name the store")
    assert CANARY not in program.output()


def test_a_command_whose_store_is_away_says_where_it_looks_for_it(programs: Programs) -> None:
    program = programs.start("command", "queue_engine", "keys", "list", QUEUE_ENGINE_REDIS_URL="redis://127.0.0.1:1/0")
    assert program.wait() == 2
    assert "it cannot be reached at 127.0.0.1:1 (QUEUE_ENGINE_REDIS_URL)" in program.output()


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("QUEUE_ENGINE_PORT", "QUEUE_ENGINE_PORT: cannot listen on 127.0.0.1:{port}: Address already in use"),
        ("QUEUE_ENGINE_CATALOGUE_FILE", "QUEUE_ENGINE_CATALOGUE_FILE: cannot read {port}: No such file or directory"),
        ("QUEUE_ENGINE_CLUSTERS_FILE", "QUEUE_ENGINE_CLUSTERS_FILE: cannot read {port}: No such file or directory"),
    ],
)
def test_what_an_api_cannot_start_with_is_named_while_the_store_is_away(
    programs: Programs, container: HttpServer, variable: str, message: str
) -> None:
    given = {"QUEUE_ENGINE_PORT": str(free_port()), "QUEUE_ENGINE_REDIS_URL": "redis://127.0.0.1:1"}
    program = programs.start("api", "queue_engine", "api", **given | {variable: str(container.port)})
    assert program.wait() == 2
    assert message.format(port=container.port) in program.output()


HOST_RULE = "; the host must be an address of this machine, or a name that resolves to one"


@pytest.mark.parametrize("host", ["a host", "192.0.2.1", "::1%nowhere"])
@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("api", "QUEUE_ENGINE_HOST"),
        ("delivery", "QUEUE_ENGINE_METRICS_HOST"),
        ("controller", "QUEUE_ENGINE_METRICS_HOST"),
    ],
)
def test_a_process_names_the_host_variable_when_it_cannot_listen_on_the_host(
    programs: Programs, name: str, variable: str, host: str
) -> None:
    program = programs.start(name, *COMMANDS[name], **{variable: host})
    assert program.wait() == 2
    assert f"{variable}: cannot listen on {host}:0: " in program.output()
    assert HOST_RULE in program.output()
    assert "Traceback" not in program.output()


@pytest.mark.parametrize("name", ["delivery", "controller"])
def test_a_process_names_the_metrics_port_when_it_is_taken(
    programs: Programs, container: HttpServer, name: str
) -> None:
    port = container.port
    program = programs.start(name, *COMMANDS[name], QUEUE_ENGINE_METRICS_PORT=str(port))
    assert program.wait() == 2
    assert f"QUEUE_ENGINE_METRICS_PORT: cannot listen on 127.0.0.1:{port}: Address already in use" in program.output()
    assert HOST_RULE not in program.output()
