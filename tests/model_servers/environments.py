"""Make the virtual environments of the model servers: `python -m tests.model_servers.environments`.

An environment that exists and fits its lock is kept. One that cannot be made leaves its reason in a file; its server's
test is skipped with that reason, and the others run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv

from tests.model_servers.servers import ENVIRONMENTS, SERVERS, ModelServer

SHOWN_LINES = 15
"""Of what pip says about a failure."""


def main() -> None:
    ENVIRONMENTS.mkdir(exist_ok=True)
    for server in SERVERS:
        make(server)


def make(server: ModelServer) -> None:
    """Make one environment, or note why it cannot be made."""
    server.failure.unlink(missing_ok=True)
    if server.installed.exists() and server.installed.read_text() == server.lock.read_text():
        say(f"== {server.name}: its environment is up to date")
        return
    say(f"== {server.name}: installing it into {server.directory.relative_to(ENVIRONMENTS.parent)}")
    shutil.rmtree(server.directory, ignore_errors=True)
    venv.create(server.directory, with_pip=True)
    pip = (str(server.directory / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check")
    installing = subprocess.run(
        (*pip, "--quiet", "--require-hashes", "-r", str(server.lock)), capture_output=True, text=True, check=False
    )
    if installing.returncode != 0:
        reason = "\n".join((installing.stdout + installing.stderr).splitlines()[-SHOWN_LINES:])
        server.failure.write_text(reason)
        say(f"!! {server.name} cannot be installed here, so it will not be tested:\n{reason}")
        return
    server.installed.write_text(server.lock.read_text())


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
