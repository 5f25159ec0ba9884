"""Names the servers that were not tested at the end of the run, where they cannot be overlooked."""

from __future__ import annotations

import pytest

from tests.model_servers.servers import SERVERS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = [server.name for server in SERVERS if not server.installed.exists()]
    if missing:
        terminalreporter.section("MODEL SERVERS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"not installed, so nothing is known of them: {', '.join(missing)}")
