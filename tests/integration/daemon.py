"""A container's program that starts a daemon which leaves everything behind, then serves on $PORT.

Arguments: the name of an abstract Unix socket, on which the daemon listens for as long as any process of it lives; and
how it lives: `sleeping`; or `reforking`, which forks, exits and leaves its session without a pause, so that it never
has the same number for long.
"""

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

DAEMON = """
import os, socket, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen(1)
end = time.time() + 120
while time.time() < end:
    if sys.argv[2] == "sleeping":
        time.sleep(1)
    elif os.fork():
        os._exit(0)
    else:
        os.setsid()
"""


def is_alive(name: str) -> bool:
    """Return whether any process of the daemon lives."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(f"\0{name}")
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # as many have connected as it takes
            return True
        return True


def main() -> None:
    subprocess.run(["setsid", "env", "-i", sys.executable, "-c", DAEMON, *sys.argv[1:3]], check=True)
    while not is_alive(sys.argv[1]):
        threading.Event().wait(0.01)
    HTTPServer(("127.0.0.1", int(os.environ["PORT"])), BaseHTTPRequestHandler).serve_forever()


if __name__ == "__main__":
    main()
