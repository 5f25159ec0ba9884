"""The entry point of `queue-engine` and `python -m queue_engine`."""

import sys
from typing import NoReturn

from queue_engine.processes.interpreter import Loading, leave_current_folder

PROCESSES = ("api", "controller", "delivery")
"""Commands that need no parser when they have no options, as `up` and services start them."""


def main() -> None:
    """Run the command line, with a safe import path, and with Ctrl-C handled before the slow imports."""
    leave_current_folder(__file__)
    from queue_engine.processes.interrupts import exit_on_interrupt, exit_on_termination

    exit_on_interrupt()
    exit_on_termination()
    if len(sys.argv) == 2 and sys.argv[1] in PROCESSES:
        _run_process(sys.argv[1])
    with Loading():
        from queue_engine.cli.main import main as run

    run()


def _run_process(role: str) -> NoReturn:
    try:
        with Loading():
            from queue_engine.cli.serve_role import serve_role
            from queue_engine.processes.standard_files import guarded_output
    except ImportError as error:
        from queue_engine.processes.missing_packages import missing_package, refuse_to_run

        if (package := missing_package(error)) is None:
            raise
        refuse_to_run(f"queue-engine {role}", package, "server")

    with guarded_output("queue-engine"):
        serve_role(role)


if __name__ == "__main__":
    main()
