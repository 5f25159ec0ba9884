"""The delivery process with room for three deliveries of a tenant, so that a few more do not fit."""

from __future__ import annotations

from functools import partial

from queue_engine.cli.main import main
from queue_engine.delivery import service
from queue_engine.delivery.shares import ShareLimits

setattr(service, ShareLimits.__name__, partial(ShareLimits, items_each=3))

if __name__ == "__main__":
    main()
