"""Programs for tests that run some as other users."""

import shutil
import sys

PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or sys.executable
"""A Python that every user can run. That of the tests may be in the home of their user."""
