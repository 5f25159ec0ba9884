"""Look for known vulnerabilities in the locked packages: `python -m tests.audit_packages PIP_AUDIT` (`make audit`).

The status is 1 if there are any. It is 0 if the database of vulnerabilities cannot be reached or does not know the
packages, so that a check without a network does not fail. It names the packages that were not checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements/all.txt", "requirements/build.txt", "requirements/deploy.txt")
"""The locks of what users install, of its build, and of the programs that check `deploy/`."""
OPTIONS = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "15")
TIMEOUT_SECONDS = 300


def main(arguments: Sequence[str]) -> int:
    """Print the vulnerabilities of all locks and return the status."""
    (program,) = arguments
    found = sorted({line for lock in LOCKS for line in audit(program, lock)})
    for line in found:
        _say(line)
    _say(f"{len(found)} known vulnerabilities in the packages that were checked")
    return 1 if found else 0


def audit(program: str, lock: str) -> list[str]:
    """Return a line for each vulnerability of the packages in `lock`."""
    command = [program, "--requirement", str(ROOT / lock), *OPTIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        _say(f"{lock}: not checked: the database of vulnerabilities did not respond in {TIMEOUT_SECONDS} s")
        return []
    except ValueError:
        _say(f"{lock}: not checked: {_reason(done.stderr)}")
        return []
    skipped = [package["skip_reason"] for package in report["dependencies"] if "skip_reason" in package]
    _say(f"{lock}: {len(report['dependencies']) - len(skipped)} packages checked")
    if skipped:  # a mirror of the registry may have the packages and not the database
        _say(f"{lock}: {len(skipped)} packages not checked: {skipped[0]}")
    return list(_lines(report))


def _reason(log: str) -> str:
    """Return the last line of the log, which names the error."""
    return (log.strip().splitlines() or ["pip-audit has printed no report"])[-1]


def _lines(report: dict[str, Any]) -> Iterator[str]:
    for package in report["dependencies"]:
        for one in package.get("vulns", ()):
            fixed = ", ".join(one.get("fix_versions") or ["no version"])
            yield f"{package['name']} {package['version']}: {one['id']}, fixed in {fixed}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
