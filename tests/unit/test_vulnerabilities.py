"""Versions of the store with published faults are named, others are not."""

import pytest

from queue_engine.domain.vulnerabilities import known_vulnerabilities

OCTOBER_2025 = {"CVE-2025-46817", "CVE-2025-46818", "CVE-2025-46819", "CVE-2025-49844"}


@pytest.mark.parametrize(
    ("server", "version", "named"),
    [
        ("redis", "6.2.19", OCTOBER_2025),
        ("redis", "6.2.20", set()),
        ("redis", "7.0.15", {"CVE-2024-31449", "CVE-2024-46981", "CVE-2025-21605", *OCTOBER_2025}),
        ("redis", "7.2.5", {"CVE-2024-31449", "CVE-2024-46981", "CVE-2025-21605", *OCTOBER_2025}),
        ("redis", "7.2.6", {"CVE-2024-46981", "CVE-2025-21605", *OCTOBER_2025}),
        ("redis", "7.2.7", {"CVE-2025-21605", *OCTOBER_2025}),
        ("redis", "7.2.10", OCTOBER_2025),
        ("redis", "7.2.11", set()),
        ("redis", "7.4.5", OCTOBER_2025),
        ("redis", "7.4.6", set()),
        ("redis", "8.0.3", OCTOBER_2025),
        ("redis", "8.0.4", set()),
        ("redis", "8.2.1", OCTOBER_2025),
        ("redis", "8.2.2", set()),
        ("redis", "8.4.0", set()),
        ("redis", "10.0.0", set()),
        ("valkey", "7.2.6", {"CVE-2024-31449", "CVE-2024-46981", "CVE-2025-21605", *OCTOBER_2025, "CVE-2025-67733"}),
        ("valkey", "7.2.10", {*OCTOBER_2025, "CVE-2025-67733"}),
        ("valkey", "7.2.11", {"CVE-2025-67733"}),
        ("valkey", "7.2.12", set()),
        ("valkey", "8.0.5", {*OCTOBER_2025, "CVE-2025-67733"}),
        ("valkey", "8.0.7", set()),
        ("valkey", "8.1.0", {"CVE-2025-21605", *OCTOBER_2025, "CVE-2025-67733"}),
        ("valkey", "8.1.3", {*OCTOBER_2025, "CVE-2025-67733"}),
        ("valkey", "8.1.6", set()),
        ("valkey", "9.0.1", {"CVE-2025-67733"}),
        ("valkey", "9.0.2", set()),
        ("valkey", "9.1.0-rc1", set()),
        ("redis", "0", set()),
        ("redis", "unknown", set()),
        ("keydb", "6.3.4", set()),
    ],
)
def test_the_faults_of_a_version_are_named(server: str, version: str, named: set[str]) -> None:
    warning = known_vulnerabilities(server, version) or ""
    words = {word.strip("(),") for word in warning.split()}
    assert {word for word in words if word.startswith("CVE-")} == named


def test_the_warning_names_the_fixed_versions_and_that_a_distribution_may_have_fixed_it() -> None:
    warning = known_vulnerabilities("redis", "7.2.4") or ""
    assert "Fixed in 7.2.11, 7.4.6, 8.0.4, 8.2.2." in warning
    assert "Debian" in warning
    assert "Fixed in 8.1.6, 9.0.2." in (known_vulnerabilities("valkey", "8.1.5") or "")
