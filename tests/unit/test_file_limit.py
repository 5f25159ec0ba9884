"""The limit of open files at the start of an API process."""

import subprocess
import sys

LOW = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 2400))\n"


def _output(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", LOW + program], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_limit_is_raised_as_far_as_the_system_allows_and_never_lowered() -> None:
    assert _output(
        "from queue_engine.processes.file_limit import raise_file_limit\n"
        "for needed in (100, 300, 250, 5000):\n"
        "    print(raise_file_limit(needed), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    ) == "200 200\n300 300\n300 300\n2400 2400\n"  # fmt: skip


def test_a_limit_that_cannot_be_raised_is_a_warning_with_both_numbers() -> None:
    program = (
        "from queue_engine.cli.serve_api import _check_file_limit\n"
        "from queue_engine.config.engine import ApiSettings\n"
        "_check_file_limit(ApiSettings(max_connections={}, alb_max_requests_per_tenant=10))\n"
    )
    warning = _output(program.format(1000))
    assert warning.startswith("the limit of open files is 2400, but QUEUE_ENGINE_MAX_CONNECTIONS and ")
    assert "need 3266: raise it" in warning
    assert _output(program.format(100)) == ""


def test_without_a_limit_of_connections_or_requests_the_hard_limit_is_used() -> None:
    program = (
        "from queue_engine.cli.serve_api import _check_file_limit\n"
        "from queue_engine.config.engine import ApiSettings\n"
        "_check_file_limit(ApiSettings(max_connections={}, alb_max_requests_per_tenant={}))\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    assert [_output(program.format(*limits)) for limits in ((0, 10), (10, 0), (10, 10))] == [
        "2400\n",
        "2400\n",
        "2276\n",
    ]
