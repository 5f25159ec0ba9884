"""What requests may hold: the rules that need no store."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from queue_engine.api.v2.endpoint_requests import CreateEndpoint, UpdateEndpoint
from queue_engine.api.v2.submissions import RAW_FIELDS, SubmitTask, traceparent_of
from queue_engine.config.catalogue import load_catalogue
from queue_engine.domain.catalogue import Catalogue, InvalidCatalogue
from queue_engine.domain.endpoints import EndpointConfig, Expose, Resource, ServiceMode, needs_new_workers
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.retry import RetryOn, TaskRetryPolicy
from queue_engine.rules.paths import normalize_process_uri
from queue_engine.rules.strict_json import split_object
from tests.api_server import ENDPOINT, TASK

CATALOGUE = load_catalogue(None)
KEY = b"k" * 32


def submission(**changes: Any) -> SubmitTask:
    wanted, errors = SubmitTask.parse(split_object(json.dumps(TASK | changes).encode(), RAW_FIELDS))
    raise_for(errors)
    return wanted


def creation(**changes: Any) -> CreateEndpoint:
    wanted, errors = CreateEndpoint.parse(ENDPOINT | changes, CATALOGUE)
    raise_for(errors)
    return wanted


EXPOSED = {"port": 8000, "protocol": "http"}


def change(before: EndpointConfig, **changes: Any) -> EndpointConfig:
    parsed, errors = UpdateEndpoint.parse(changes, CATALOGUE, before)
    raise_for(errors)
    return parsed.edited(before)


# processUri


@pytest.mark.parametrize(
    ("given_uri", "stored"),
    [
        ("run", "/run"),
        ("/run", "/run"),
        ("/", "/"),
        ("/v1/models/a:predict", "/v1/models/a:predict"),
        ("/a;v=1/b.c/~d/$e&f'(g)*h+i,j=k@l!", "/a;v=1/b.c/~d/$e&f'(g)*h+i,j=k@l!"),
        ("/...", "/..."),
        ("/predict/", "/predict/"),
        ("predict/", "/predict/"),
        ("/a;v=1/b;/", "/a;v=1/b;/"),
        (".../", "/.../"),
        ("/.well-known", "/.well-known"),
        ("a" * 255, "/" + "a" * 255),
    ],
)
def test_a_path_is_kept_with_a_leading_slash(given_uri: str, stored: str) -> None:
    assert normalize_process_uri(given_uri) == stored


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "//",
        "//evil.example/x",
        "/a//b",
        "///",
        "a//",
        "/a//",
        "/a///",
        "/a/b//",
        "./",
        "/../",
        "/a/./",
        "/..;/",
        "/a/.;x=1/",
        "/a/;x/",
        "/;/",
        "/.",
        "/..",
        "..",
        "./a",
        "/../admin",
        "/a/./b",
        "/a/..",
        "/..;/x",
        "/.;a/x",
        "/..;a=b/x",
        "/;/x",
        "/;a=b",
        "/%2e%2e/admin",
        "/%",
        "/a\\b",
        "/a\n",
        "/a\r",
        "/a\t",
        "/a\x00",
        "/a b",
        " /a",
        "/a?x",
        "/a#x",
        "http://evil/x",
        "https://evil",
        "/é",
        "/a\u2215b",
        "/\uff0e\uff0e/a",
        "/[a]",
        '/"a"',
        "/{a}",
        "/a|b",
        "/a^b",
        "/`a`",
        "/<a>",
        "a" * 256,
    ],
)
def test_what_might_become_another_path_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="must"):
        normalize_process_uri(uri)


def text_with_slash(uri: str) -> str:
    return uri if uri.startswith("/") else "/" + uri


@given(st.text(alphabet="/.;a%?#\\ \n~é", max_size=12))
def test_a_path_that_passes_has_only_plain_segments(uri: str) -> None:
    try:
        path = normalize_process_uri(uri)
    except ValueError:
        return
    segments = path[1:].split("/")
    inner = segments[:-1] if segments[-1] == "" else segments
    assert all(one.split(";")[0] not in ("", ".", "..") for one in inner)
    assert path == text_with_slash(uri)
    assert not set(path) & set("%?#\\ \né")


# Submissions


def test_a_submission_is_read() -> None:
    task = submission(
        taskId="a_1",
        webhook="https://Hooks.Example.com/x",
        webhookAuthKey="a b",
        headers={"X-A": "1"},
        status="SUCCESS",
        tenantId="other",
    )
    spec = task.request("00-trace").spec
    assert (spec.worker_port, spec.process_uri, spec.headers) == (8000, "/run", {"X-A": "1"})
    assert (spec.webhook, spec.webhook_auth_key) == ("https://hooks.example.com/x", "a b")
    assert (spec.webhook_destination, spec.traceparent) == ("https://hooks.example.com:443", "00-trace")
    assert (task.task_id, task.input) == ("a_1", b'{"n": 1}')


@pytest.mark.parametrize("name", ["taskId", "webhookAuthKey", "headers"])
def test_null_counts_as_absent(name: str) -> None:
    assert submission(**{name: None}) == submission()


@pytest.mark.parametrize("value", ["", {}, [], 0, False])
def test_an_empty_input_is_an_input(value: object) -> None:
    assert json.loads(bytes(submission(input=value).input)) == value


def fingerprint(key: bytes = KEY, **changes: Any) -> str:
    return submission(**changes).request(None).fingerprint(key)


def test_the_fingerprint_is_that_of_the_request_and_not_of_its_spelling() -> None:
    first = fingerprint(headers={"A": "1", "B": "2"}, taskId="x")
    assert first == fingerprint(headers={"B": "2", "A": "1"}, processUri="run", taskId="y")
    assert len(first) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"n": 2}},
        {"workerPort": 8001},
        {"processUri": "/other"},
        {"webhook": "http://a.example/"},
        {"webhookAuthKey": "k"},
        {"headers": {"A": "1"}},
        {"executionTimeoutSeconds": 60},
        {"queueTtlSeconds": 60},
    ],
)
def test_every_part_of_the_request_is_in_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(**change) != fingerprint()


def test_the_fingerprint_of_a_request_without_limits_of_its_own_stays_as_it_was() -> None:
    assert fingerprint() == "252dcd92ee0a9987fee6f1c7a78d0802"
    assert fingerprint(executionTimeoutSeconds=None, queueTtlSeconds=None) == fingerprint()
    assert fingerprint(executionTimeoutSeconds=5) != fingerprint(queueTtlSeconds=5)


def test_the_fingerprint_tells_nothing_without_its_key() -> None:
    assert fingerprint() != fingerprint(b"")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], True),
        ([], False),
        ([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] * 2, False),
        ([b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], False),
        ([b"00-00000000000000000000000000000000-b7ad6b7169203331-01"], False),
        ([b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"], False),
        ([b"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"], False),
        ([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n"], False),
        ([b"nonsense"], False),
    ],
)
def test_only_a_wellformed_traceparent_is_taken(headers: list[bytes], expected: bool) -> None:
    found = traceparent_of([(b"host", b"x"), *((b"traceparent", one) for one in headers)])
    assert found == (headers[0].decode() if expected else None)


# Endpoints


def test_an_endpoint_is_read() -> None:
    config = creation(
        imageRegistry="",
        minSingleCardVramInGb=24,
        initializationCommand="run\nme",
        environmentVars=[{"key": "A", "value": "1"}, {"name": "B", "value": ""}],
        expose={"port": 8000, "protocol": "Http"},
        webhook="http://hooks.example.com",
        concurrency=4,
        resources=[{"region": "r", "gpuType": "nvidia_a100_pcie_80g", "gpuCount": 2}],
    ).config()
    assert config.service_mode is ServiceMode.QUEUE
    assert config.environment == {"A": "1", "B": ""}
    assert config.expose == Expose(8000, "HTTP")
    assert config.resources == (Resource("r", "NVIDIA_A100_PCIe_80G", 2),)
    assert (config.image_registry, config.webhook, config.concurrency) == (None, "http://hooks.example.com", 4)


def test_the_life_of_an_endpoints_tasks_is_read() -> None:
    assert creation(cancelUri="stop/").config().cancel_uri == "/stop/"
    config = creation(queueTtlSeconds=1.5, cancelUri="stop", retryOn=["500", "timeout"], retryDelaysSeconds=[0, 2.5])
    made = config.config()
    assert (made.queue_ttl_seconds, made.cancel_uri) == (1.5, "/stop")
    assert made.retry_policy == TaskRetryPolicy(frozenset({RetryOn.SERVER_ERROR, RetryOn.TIMEOUT}), (0.0, 2.5))
    plain = creation().config()
    assert (plain.queue_ttl_seconds, plain.cancel_uri, plain.retry_policy) == (None, None, TaskRetryPolicy())
    assert creation(retryOn=[]).config().retry_policy.on == frozenset()


def test_a_change_keeps_the_half_of_a_retry_policy_that_it_does_not_name() -> None:
    before = creation(retryOn=["500"], retryDelaysSeconds=[7], cancelUri="/stop", queueTtlSeconds=9).config()
    changed = partial(change, before)
    assert changed().retry_policy == before.retry_policy
    assert changed(retryOn=[]).retry_policy == TaskRetryPolicy(frozenset(), (7.0,))
    assert changed(retryDelaysSeconds=[1]).retry_policy == TaskRetryPolicy(frozenset({RetryOn.SERVER_ERROR}), (1.0,))
    assert changed(retryOn=None, retryDelaysSeconds=None).retry_policy == TaskRetryPolicy()
    cleared = changed(cancelUri=None, queueTtlSeconds=None)
    assert (cleared.cancel_uri, cleared.queue_ttl_seconds) == (None, None)
    assert not needs_new_workers(before, changed(retryOn=[], retryDelaysSeconds=[1], cancelUri=None, queueTtlSeconds=1))


def test_when_a_worker_is_ready_and_how_long_it_may_be_busy_is_read() -> None:
    made = creation(expose=EXPOSED, readyPath="healthz", startTimeoutSeconds=12.5, maxBusySeconds=0).config()
    assert (made.ready_path, made.start_timeout_seconds, made.max_busy_seconds) == ("/healthz", 12.5, 0)
    plain = creation().config()
    assert (plain.ready_path, plain.start_timeout_seconds, plain.max_busy_seconds) == (None, 1800, 900)


def test_a_change_keeps_every_field_that_it_does_not_name() -> None:
    before = creation(workers=0, concurrency=3, webhook="http://hooks.example.com").config()
    assert change(before) == before
    assert change(before, image="other", serviceMode="ALB") == before
    assert change(before, name="b") == replace(before, name="b")
    assert change(before, workers=0, containerVolumeInGb=21) == replace(before, container_volume_in_gb=21)


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ("name", "must be a string"),
        ("resources", "must be an array"),
        ("workers", "must be an integer"),
        ("containerVolumeInGb", "must be an integer"),
    ],
)
def test_a_change_cannot_clear_what_is_required(field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: {rule}$"):
        change(creation().config(), **{field: None})


@pytest.mark.parametrize(("given", "plain"), [({}, False), ({"secret": None}, False), ({"secret": False}, True)])
def test_a_variable_whose_secret_is_null_is_secret_as_when_it_is_left_out(given: dict[str, Any], plain: bool) -> None:
    variables = [{"key": "MODEL", "value": "small"} | given]
    expected = frozenset({"MODEL"} if plain else ())
    assert creation(environmentVars=variables).config().plain_variables == expected
    assert change(creation().config(), environmentVars=variables).plain_variables == expected


def test_null_clears_or_brings_back_the_default() -> None:
    given: dict[str, Any] = {
        "containerRegistryAuthId": 1, "minSingleCardVramInGb": 1, "minSingleCardVcpu": 1, "minSingleCardRamInGb": 1,
        "initializationCommand": "run", "expose": EXPOSED, "webhook": "http://hooks.example.com", "concurrency": 2,
        "executionTimeoutSeconds": 9, "maxAttempts": 2, "maxQueuedTasks": 2, "resultRetentionSeconds": 2,
        "queueTtlSeconds": 2, "cancelUri": "/c", "readyPath": "/r", "startTimeoutSeconds": 60, "maxBusySeconds": 2,
        "retryOn": [], "retryDelaysSeconds": [9], "environmentVars": [], "maxSubmitsPerSecond": 2,
        "rateLimit": {"perSecond": 0.5, "burst": 2}, "maxConcurrencyPerKey": 2, "defaultPriority": "low",
    }  # fmt: skip
    before = creation(**given).config()
    assert change(before, **dict.fromkeys(given)) == creation().config()
    changeable = {to_camel(name) for name in UpdateEndpoint.model_fields}
    assert changeable - given.keys() == {"name", "resources", "workers", "containerVolumeInGb"}


def test_a_variable_is_a_secret_unless_it_says_otherwise() -> None:
    def variables(*plain: bool | None) -> list[dict[str, Any]]:
        return [
            {"key": f"V{index}", "value": "x"} | ({} if secret is None else {"secret": secret})
            for index, secret in enumerate(plain)
        ]

    before = creation(environmentVars=variables(None, True, False)).config()
    assert before.plain_variables == {"V2"}
    changed = change(before, environmentVars=variables(False, None))
    assert changed.plain_variables == {"V0"}
    assert needs_new_workers(before, changed)
    assert change(before).plain_variables == {"V2"}
    assert change(before, environmentVars=None).plain_variables == frozenset()
    odd: Any
    for odd in ("false", 0, []):
        with pytest.raises(InvalidRequest, match=r"^environmentVars\[0\]\.secret: must be true or false$"):
            creation(environmentVars=[{"key": "A", "value": "x", "secret": odd}])


def test_a_ready_path_needs_an_exposed_port_also_after_a_change() -> None:
    rule = "^readyPath: requires expose"
    with pytest.raises(InvalidRequest, match=rule):
        creation(readyPath="/healthz").config()
    exposed = creation(expose=EXPOSED, readyPath="/healthz").config()
    with pytest.raises(InvalidRequest, match=rule):
        change(exposed, expose=None)
    with pytest.raises(InvalidRequest, match=rule):
        change(creation().config(), readyPath="/healthz")
    assert change(exposed, expose=None, readyPath=None).expose is None
    assert change(creation().config(), expose=EXPOSED, readyPath="x").ready_path == "/x"


def test_null_clears_what_says_when_a_worker_is_ready() -> None:
    given = {"readyPath": "/healthz", "startTimeoutSeconds": 60, "maxBusySeconds": 5}
    before = creation(expose=EXPOSED, **given).config()
    assert change(before) == before
    cleared = change(before, **dict.fromkeys(given))
    assert (cleared.ready_path, cleared.start_timeout_seconds, cleared.max_busy_seconds) == (None, 1800, 900)


@pytest.mark.parametrize(
    ("field", "value", "new_workers"),
    [("readyPath", "/other", True), ("startTimeoutSeconds", 61, True), ("maxBusySeconds", 6, False)],
)
def test_workers_are_replaced_for_what_they_are_started_with(field: str, value: Any, new_workers: bool) -> None:
    before = creation(expose=EXPOSED, readyPath="/healthz").config()
    assert needs_new_workers(before, change(before, **{field: value})) is new_workers


_ODD_DELAYS: list[Any] = [-1, 3601, True, "1", None, 10**399]
_ODD_WORDS: list[Any] = ["501", "", 500, True, None, [], "no_connection "]
BAD_LIVES: list[tuple[str, str, list[Any]]] = [
    ("queueTtlSeconds", "queueTtlSeconds", [0, -1, True, "5", 1e9, 10**399, []]),
    ("cancelUri", "cancelUri", ["", "/../a", "/a b", "http://evil/x", "//x", "/a?b", 5, []]),
    ("readyPath", "readyPath", ["", "/../a", "/a b", "http://evil/x", "//x", "/a?b", 5, []]),
    ("startTimeoutSeconds", "startTimeoutSeconds", [0, 9.9, 86_401, True, "60", 10**399, []]),
    ("maxBusySeconds", "maxBusySeconds", [-1, 86_401, True, "60", 10**399, []]),
    ("retryOn", "retryOn", ["500", 5, {}, ["500"] * 10]),
    ("retryOn", r"retryOn\[1\]", [["429", one] for one in _ODD_WORDS]),
    ("retryDelaysSeconds", "retryDelaysSeconds", [[], [1] * 21, 5, "1"]),
    ("retryDelaysSeconds", r"retryDelaysSeconds\[1\]", [[1, one] for one in _ODD_DELAYS]),
]


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [(name, value, place) for name, place, values in BAD_LIVES for value in values],
)
def test_what_breaks_a_rule_about_the_life_of_tasks_is_named(field: str, value: Any, place: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{place}: must "):
        creation(**{field: value})


def test_errors_name_the_place_in_the_body() -> None:
    resource = ENDPOINT["resources"][0]
    with pytest.raises(InvalidRequest, match=r"^resources\[1\]\.gpuCount: must be at least 1$"):
        creation(resources=[resource, resource | {"gpuCount": 0}])
    with pytest.raises(InvalidRequest, match=r"^resources\[1\]\.gpuType: must be one of CPU, "):
        creation(resources=[resource, resource | {"gpuType": "ABACUS"}]).config()
    for member in ("key", "name"):
        with pytest.raises(InvalidRequest, match=rf"^environmentVars\[1\]\.{member}: A is given twice$"):
            creation(environmentVars=[{"key": "A", "value": "1"}, {member: "A", "value": "2"}])


@pytest.mark.parametrize("length", [1, 9, 10, 60, 399, 400, 1000])
def test_the_message_on_many_field_errors_is_cut_between_two_errors_and_counts_the_rest(length: int) -> None:
    errors = [(f"field{number:03}", "x" * length) for number in range(600)]
    with pytest.raises(InvalidRequest) as caught:
        raise_for(errors)
    *named, rest = str(caught.value).split("; ")
    assert named == [f"{name}: {rule}" for name, rule in errors[: len(named)]]
    assert rest == f"and {600 - len(named)} more"
    assert 2000 - len(f"; {named[0]}") - 3 <= len(str(caught.value)) <= 2000


def test_the_message_on_few_field_errors_names_all() -> None:
    raise_for([])
    with pytest.raises(InvalidRequest, match=r"^a: is required; b: must be an integer$"):
        raise_for([("a", "is required"), ("b", "must be an integer")])


def test_a_message_lists_only_some_names_of_a_large_catalogue() -> None:
    catalogue = Catalogue.parse("".join(f'[[gpu]]\nname = "GPU_{number:04}"\n' for number in range(2000)))
    unknown = ENDPOINT | {"workers": -1, "resources": [ENDPOINT["resources"][0] | {"gpuType": "ABACUS"}]}
    _, errors = CreateEndpoint.parse(unknown, catalogue)
    assert [name for name, _ in errors] == ["resources[0].gpuType", "workers"]
    assert re.fullmatch(r"must be one of GPU_0000, GPU_0001, .*, GPU_[0-9]+, and [0-9]+ more", errors[0][1])
    assert len(errors[0][1]) < 1100


def test_errors_repeat_no_value() -> None:
    canary = "canary-5d1c"
    for change in ({"environmentVars": [{"key": canary + "!", "value": canary}]}, {"image": canary + " "}):
        with pytest.raises(InvalidRequest) as caught:
            creation(**change)
        assert canary not in str(caught.value)
    for auth_key in (canary + "\n", f"whsec_{canary}"):
        with pytest.raises(InvalidRequest) as caught:
            submission(webhookAuthKey=auth_key)
        assert str(caught.value).startswith("webhookAuthKey: must be ")
        assert canary not in str(caught.value)


# The catalogue


def test_gpu_types_of_the_published_client_are_known_in_any_case() -> None:
    from yottaml.lib.enums import GPUType

    for gpu_type in GPUType:
        assert CATALOGUE.canonical(gpu_type.value) == gpu_type.value
        assert CATALOGUE.canonical(gpu_type.value.lower()) == gpu_type.value
    assert CATALOGUE.canonical("NVIDIA_RTX_A6000") == "NVIDIA_RTX_A6000"
    assert CATALOGUE.canonical("cpu") == "CPU"
    assert CATALOGUE.canonical("") is None


def test_an_operator_extends_the_catalogue() -> None:
    extra = Catalogue.parse('[[gpu]]\nname = "MY_GPU"\naliases = ["MINE"]\n')
    both = CATALOGUE.extended_by(extra)
    assert both.canonical("mine") == "MY_GPU"
    assert both.canonical("CPU") == "CPU"
    assert both.names == (*CATALOGUE.names, "MY_GPU")


def test_a_broken_file_of_the_operator_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gpus.toml"
    with pytest.raises(InvalidCatalogue, match=f"cannot read {path}: No such file"):
        load_catalogue(path)
    for content in (b"[[gpu", b'[[gpu]]\nname = ""', b"\xff"):
        path.write_bytes(content)
        with pytest.raises(InvalidCatalogue, match=f"^{path}: "):
            load_catalogue(path)
    path.write_text('[[gpu]]\nname = "MY_GPU"\n')
    assert load_catalogue(path).canonical("my_gpu") == "MY_GPU"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gpu = [", "TOML"),
        ("gpu = 5", "gpu"),
        ("[[gpu]]", "name"),
        ("[[gpu]]\nname = 5", "name"),
        ('[[gpu]]\nname = "A B"', "A B"),
        ('[[gpu]]\nname = "A"\n[[gpu]]\nname = "a"', "twice"),
        ('[[gpu]]\nname = "A"\nprice = 1', "price"),
        ('[[gpus]]\nname = "A"', "gpus"),
    ],
)
def test_a_broken_catalogue_is_explained(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Catalogue.parse(text)
