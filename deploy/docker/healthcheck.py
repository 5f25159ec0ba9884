"""Health check of a container: exit with status 0 when GET of a path on this machine responds with 200, else 1.

python3 healthcheck.py PORT PATH
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 4.0


def main(port: str, path: str) -> int:
    """Return the exit status. No proxy of the environment is used."""
    connection = HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(f"{path}: {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
