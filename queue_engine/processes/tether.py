"""Run a program that cannot watch a lifeline itself, and end it some time after this process's parent has died.

    python -m queue_engine.processes.tether LINGER_SECONDS PROGRAM [ARGUMENT ...]

SIGTERM is forwarded to the program. Exits with the program's status, or 128 + the signal that ended it. When the parent
has died, the program continues for LINGER_SECONDS, so that its clients can finish their work.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from queue_engine.processes.interpreter import python_command
from queue_engine.processes.lifeline import LIFELINE_VARIABLE

_STOP_SECONDS = 30.0


def tether_command(linger_seconds: float, command: Sequence[str]) -> tuple[str, ...]:
    """Return the command line that runs `command` under a tether."""
    return python_command("queue_engine.processes.tether", str(linger_seconds), *command)


def main(arguments: Sequence[str]) -> int:
    """Run the program until it ends; return the exit status."""
    linger_seconds, command = float(arguments[0]), arguments[1:]
    lifeline = int(os.environ.pop(LIFELINE_VARIABLE))
    program = _start_with_sigterm_handed_on(command)
    threading.Thread(target=_end_when_cut, args=(lifeline, linger_seconds, program), daemon=True).start()
    status = program.wait()
    return status if status >= 0 else 128 - status


def _start_with_sigterm_handed_on(command: Sequence[str]) -> subprocess.Popen[bytes]:
    program: subprocess.Popen[bytes] | None = None
    is_told = False

    def hand_on(*_: object) -> None:
        nonlocal is_told
        is_told = True
        if program is not None:
            program.terminate()

    # Set before the program is started, because SIGTERM would otherwise end the tether and leave the program running.
    signal.signal(signal.SIGTERM, hand_on)
    program = subprocess.Popen(command)
    if is_told:
        program.terminate()
    return program


def _end_when_cut(lifeline: int, linger_seconds: float, program: subprocess.Popen[bytes]) -> None:
    # The pipe is never written to, so readable means end-of-file. This does not use `read`, because another reader of
    # the same pipe may have made it non-blocking.
    select.select([lifeline], [], [])
    for end, patience in ((program.terminate, linger_seconds), (program.kill, _STOP_SECONDS)):
        try:
            program.wait(patience)
        except subprocess.TimeoutExpired:
            end()
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
