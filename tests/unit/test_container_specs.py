"""The containers of a worker as the engine is asked for them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from queue_engine.backends.base import BackendError, WorkerSpec
from queue_engine.backends.container_logs import stamp_ns
from queue_engine.backends.container_words import AGENT_PORT, command_words
from queue_engine.backends.docker.engine import is_on_this_host
from queue_engine.backends.docker.network import gateway_in
from queue_engine.backends.docker.output import note_in, variables_in
from queue_engine.backends.docker.specs import (
    MAIN_MAX_PIDS,
    Devices,
    Hosting,
    MainOptions,
    agent_config,
    main_config,
)
from queue_engine.domain.endpoints import Resource

SPEC = WorkerSpec(
    endpoint_id="7",
    worker_id="7-ab",
    run=2,
    image="demo/image:1",
    command="serve --port $PORT",
    environment={"TOKEN": "canary-7d2c"},
    exposed_port=8000,
    protocol="HTTP",
    resources=(Resource("local", "NVIDIA_L4_24G", 2),),
    volume_gb=20,
    card_vcpus=4,
    card_ram_gb=16,
    ready_path="/healthz",
    agent_environment={"WORKER_AGENT_TOKEN": "canary-a9e1"},
)
HOSTING = Hosting("here", network="workers", agent_server="http://10.88.0.1:8003")
CREATED = "2026-11-28T14:03:07.123456789Z"
OPTIONS = MainOptions("docker.io/demo/image:1", "agent-id")


def agent() -> dict[str, Any]:
    return agent_config(SPEC, HOSTING, "agent:1", ())


def main(spec: WorkerSpec = SPEC, hosting: Hosting = HOSTING, options: MainOptions = OPTIONS) -> dict[str, Any]:
    return main_config(spec, hosting, options, ())


def variables(config: dict[str, Any]) -> dict[str, str]:
    return dict(assignment.split("=", 1) for assignment in config["Env"])


def test_each_secret_is_in_one_container_only() -> None:
    assert "canary-7d2c" not in json.dumps(agent())
    assert "canary-a9e1" not in json.dumps(main())
    assert variables(main()) == {
        "PYTHONUNBUFFERED": "1",
        "PORT": "8000",
        "TOKEN": "canary-7d2c",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }


def test_a_note_is_the_first_line_of_the_log_each_time_that_it_is_read() -> None:
    noted = {"Config": agent_config(SPEC, HOSTING, "agent:1", (), "this host has no GPU"), "Created": CREATED}
    entry = note_in(noted)
    assert entry is not None
    assert entry.data == b"this host has no GPU\n"
    # Before the second in which the container was created, because podman's times of output are whole seconds.
    assert entry.stamp_ns == stamp_ns("2026-11-28T14:03:06Z")
    assert note_in({"Config": agent(), "Created": CREATED}) is None


def test_the_agent_knows_its_worker_its_server_and_its_container() -> None:
    found = variables(agent())
    assert found["WORKER_AGENT_SERVER"] == "http://10.88.0.1:8003"
    assert found["WORKER_AGENT_TOKEN"] == "canary-a9e1"
    assert (found["WORKER_AGENT_ENDPOINT"], found["WORKER_AGENT_WORKER_ID"], found["WORKER_AGENT_RUN"]) == (
        "7", "7-ab", "2",
    )  # fmt: skip
    assert (found["WORKER_AGENT_EXPOSED_PORT"], found["WORKER_AGENT_READY_PATH"]) == ("8000", "/healthz")
    assert found["WORKER_AGENT_OWN_NETWORK"] == "true"
    assert found["WORKER_AGENT_METRICS_PORT"] == str(AGENT_PORT)


@pytest.mark.parametrize(("network", "is_one_of_containers"), [(None, "true"), ("workers", "true"), ("host", "false")])
def test_the_agent_knows_if_its_gateway_is_that_of_a_container_network(
    network: str | None, is_one_of_containers: str
) -> None:
    """Only then may it send its token to the gateway over plain HTTP."""
    found = variables(agent_config(SPEC, replace(HOSTING, network=network), "agent:1", ()))
    assert found["WORKER_AGENT_CONTAINER_NETWORK"] == is_one_of_containers


def test_the_agent_has_the_network_and_the_container_joins_it() -> None:
    assert agent()["HostConfig"]["NetworkMode"] == "workers"
    assert main()["HostConfig"]["NetworkMode"] == "container:agent-id"


def test_the_agent_may_change_nothing_and_has_limits() -> None:
    host = agent()["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["Memory"]
    assert host["PidsLimit"]


def test_the_container_can_neither_read_the_agents_traffic_nor_take_all_processes() -> None:
    host = main()["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not {"NET_RAW", "NET_ADMIN", "MKNOD", "SYS_ADMIN"} & {*host["CapAdd"]}
    assert {"CHOWN", "SETUID", "SETGID", "NET_BIND_SERVICE"} <= {*host["CapAdd"]}
    assert host["PidsLimit"] == MAIN_MAX_PIDS


@pytest.mark.parametrize("config", [agent(), main()])
def test_the_check_of_an_image_is_not_run(config: dict[str, Any]) -> None:
    assert config["Healthcheck"] == {"Test": ["NONE"]}


@pytest.mark.parametrize("config", [agent(), main()])
def test_no_container_is_restarted_by_the_engine_or_gains_privileges(config: dict[str, Any]) -> None:
    host = config["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert not host.get("Privileged")
    assert not host.get("Binds")
    assert not host.get("PidMode")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve --x", ["/bin/sh", "-c", "serve --x"]),
        ('["serve", "--x"]', ["serve", "--x"]),
        (' ["serve"]', ["serve"]),
        ("[ -f x ] && serve", ["/bin/sh", "-c", "[ -f x ] && serve"]),
        ("[]", ["/bin/sh", "-c", "[]"]),
        ("[1]", ["/bin/sh", "-c", "[1]"]),
    ],
)
def test_a_command_is_for_the_shell_or_an_array_of_words(command: str, words: list[str]) -> None:
    assert command_words(command) == words


def test_without_a_command_the_image_decides() -> None:
    for command in (None, " "):
        config = main(replace(SPEC, command=command))
        assert "Entrypoint" not in config
        assert "Cmd" not in config


def test_limits_are_the_minimum_for_each_card_and_only_set_when_asked_for() -> None:
    assert "Memory" not in main()["HostConfig"]
    host = main(hosting=replace(HOSTING, limits=True))["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (32 * 1024**3, 8 * 10**9)
    several = replace(SPEC, resources=(*SPEC.resources, Resource("local", "NVIDIA_L40S_48G", 1)))
    second = main(several, replace(HOSTING, limits=True), replace(OPTIONS, devices=Devices(("GPU-1",))))["HostConfig"]
    assert (second["Memory"], second["NanoCpus"]) == (16 * 1024**3, 4 * 10**9)
    none = main(replace(SPEC, card_ram_gb=0, card_vcpus=0), replace(HOSTING, limits=True))["HostConfig"]
    assert not {"Memory", "NanoCpus"} & none.keys()


def test_devices_are_requested_by_identifier() -> None:
    assert "DeviceRequests" not in main()["HostConfig"]
    some = main(options=replace(OPTIONS, devices=Devices(("GPU-1", "GPU-2"))))["HostConfig"]["DeviceRequests"]
    assert some == [{"Driver": "nvidia", "Capabilities": [["gpu"]], "DeviceIDs": ["GPU-1", "GPU-2"]}]
    every = main(options=replace(OPTIONS, devices=Devices(all_of_host=True)))["HostConfig"]["DeviceRequests"]
    assert every == [{"Driver": "nvidia", "Capabilities": [["gpu"]], "Count": -1}]


@pytest.mark.parametrize(
    ("devices", "visible"),
    [(Devices(), "void"), (Devices(("GPU-1", "GPU-2")), "GPU-1,GPU-2"), (Devices(all_of_host=True), "all")],
)
def test_a_container_sees_only_its_gpus_whatever_its_variables_say(devices: Devices, visible: str) -> None:
    """Where NVIDIA's runtime is the engine's default, it needs no request for GPUs."""
    spec = replace(SPEC, environment={"TOKEN": "t", "NVIDIA_VISIBLE_DEVICES": "all"})
    config = main(spec, options=replace(OPTIONS, devices=devices))
    assert variables(config)["NVIDIA_VISIBLE_DEVICES"] == visible
    assert variables_in({"Config": config}).get("NVIDIA_VISIBLE_DEVICES") == ("all" if devices.all_of_host else None)


def test_the_disk_is_limited_where_the_engine_can() -> None:
    assert "StorageOpt" not in main()["HostConfig"]
    assert main(options=replace(OPTIONS, sizes_disk=True))["HostConfig"]["StorageOpt"] == {"size": "20G"}


@pytest.mark.parametrize(
    ("description", "address"),
    [
        ({"IPAM": {"Config": [{"Subnet": "10.88.0.0/16", "Gateway": "10.88.0.1"}]}}, "10.88.0.1"),
        ({"IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}, "172.17.0.1"),
        (
            {"IPAM": {"Config": [{"Subnet": "fd00::/64", "Gateway": "fd00::1"}, {"Subnet": "172.18.0.0/16"}]}},
            "172.18.0.1",
        ),
        ({"IPAM": {"Config": [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.9/16"}]}}, "172.18.0.9"),
    ],
)
def test_the_gateway_of_a_network_is_found(description: dict[str, Any], address: str) -> None:
    assert gateway_in(description) == address


@pytest.mark.parametrize("description", [{}, {"IPAM": None}, {"IPAM": {"Config": []}}, {"Name": "host", "IPAM": {}}])
def test_a_network_without_a_gateway_is_an_error_with_advice(description: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="QUEUE_ENGINE_AGENT_URL"):
        gateway_in(description)


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("unix:///run/docker.sock", True),
        ("tcp://127.0.0.1:2375", True),
        ("tcp://localhost:2375", True),
        ("https://[::1]:2376", True),
        ("tcp://10.0.0.7:2375", False),
        ("https://gpu.example.com", False),
    ],
)
def test_the_gpus_of_the_controllers_host_are_those_of_a_local_engine_only(url: str, is_here: bool) -> None:
    assert is_on_this_host(url) is is_here
