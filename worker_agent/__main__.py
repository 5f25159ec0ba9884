"""The entry point of `worker-agent` and `python -m worker_agent`."""

from queue_engine.processes.interpreter import Loading, leave_current_folder


def main() -> None:
    """Run the command line, with a safe import path, and with Ctrl-C handled before the slow imports."""
    leave_current_folder(__file__)
    from queue_engine.processes.interrupts import exit_on_interrupt, exit_on_termination

    exit_on_interrupt()
    exit_on_termination()
    try:
        with Loading():
            from worker_agent.cli import main as run
    except ImportError as error:
        from queue_engine.processes.missing_packages import missing_package, refuse_to_run

        if (package := missing_package(error)) is None:
            raise
        refuse_to_run("worker-agent", package, "agent")
    run()


if __name__ == "__main__":
    main()
