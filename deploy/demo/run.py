"""The demo: the whole engine on this machine, two workers with a real model, and every result checked.

    .venv/bin/python deploy/demo/run.py [--files N] [--command COMMAND]

Exits with 0 when every step worked and nothing is left behind, 1 when not, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a file: its own folder is on the path, and the project's is not.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from queue_engine.runtime.interrupts import exit_on_interrupt

exit_on_interrupt()

# ruff: noqa: E402 - the imports follow the handler, because they take longer than a Ctrl-C
import argparse
import asyncio
import signal
import time

from deploy.demo.screen import Screen
from deploy.demo.stack import Stack
from deploy.demo.tour import DELIVERY_SCHEDULE, Options, StepFailed, Tour
from queue_engine.runtime.standard_files import guarded_output

FILES = 120
MOST_FILES = 2000
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run it; returns the exit status."""
    options = _options()
    screen = Screen.of_this_process()
    try:
        status = asyncio.run(run(options, screen))
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on (`make demo | head`). Python would complain once more when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


async def run(options: Options, screen: Screen) -> int:
    """The demo on a stack of its own, which is ended and removed whatever happens."""
    started = time.monotonic()
    stack = Stack({"QUEUE_ENGINE_DELIVERY_SCHEDULE": ",".join(map(str, DELIVERY_SCHEDULE))}, os.environ)
    tour = asyncio.create_task(Tour(options, stack, screen).run())
    interruption = _Interruption(tour, stack)
    failure = None
    try:
        await tour
    except StepFailed as error:
        failure = error
    except asyncio.CancelledError:
        if interruption.signal is None:
            raise
    finally:
        left = await _clean_up(stack)
    if failure is not None:
        _explain(failure, screen)
    if left:
        screen.complain("\nFAILED: stop the engine: " + "\n".join(left))
    if interruption.signal is not None:
        screen.complain(f"\n{interruption.signal.name}: stopped")
        return 128 + interruption.signal
    if failure is not None or left:
        return 1
    seconds = time.monotonic() - started
    screen.say(f"done in {seconds:.0f} s: no process is left, port {stack.port} is free, the data is removed")
    return 0


async def _clean_up(stack: Stack) -> list[str]:
    """End the stack and remove what it kept; returns what did not work."""
    await stack.stop()
    left = await stack.leftovers()
    try:
        stack.remove()
    except OSError as error:
        left.append(f"{stack.folder}: {error.strerror}")
    return left


def _explain(failure: StepFailed, screen: Screen) -> None:
    for name, tail in failure.tails.items():
        screen.complain(f"\nthe end of {name}:\n{tail}")
    screen.complain(f"\nFAILED: {failure}")


class _Interruption:
    """The first signal breaks the tour off, so that everything is ended in order; the next one ends it at once."""

    def __init__(self, tour: asyncio.Task[None], stack: Stack) -> None:
        self.signal: signal.Signals | None = None
        self._tour = tour
        self._stack = stack
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.signal is not None:
            self._stack.hurry()
            return
        self.signal = number
        self._tour.cancel()


def _options() -> Options:
    parser = argparse.ArgumentParser(description="Run the whole engine on this machine and check what it does.")
    parser.add_argument("--files", type=_file_count, default=FILES, help=f"how many files to submit ({FILES})")
    parser.add_argument("--command", help="the workers' command, in place of the model server's")
    given = parser.parse_args()
    return Options(given.files, given.command)


def _file_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_FILES):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MOST_FILES}")
    return int(text)


if __name__ == "__main__":
    with guarded_output("demo"):
        sys.exit(main())
