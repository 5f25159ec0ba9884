"""The delivery process with a name server of the test's own, because the system's cannot be made to hang.

NAME_SERVER=127.0.0.1:5353 python -m tests.named_delivery delivery
"""

from __future__ import annotations

import os
from functools import partial

from queue_engine.cli import serve_delivery
from queue_engine.cli.main import main
from queue_engine.net.resolver import DnsLookup

setattr(serve_delivery, DnsLookup.__name__, partial(DnsLookup, name_servers=[os.environ["NAME_SERVER"]]))

if __name__ == "__main__":
    main()
