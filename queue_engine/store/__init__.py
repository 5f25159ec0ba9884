"""The store: the only code that speaks Redis. Its processes load redis-py here, without what they never use."""

import sys
from types import ModuleType

if "redis" not in sys.modules and "jwt" not in sys.modules:
    # redis-py imports PyJWT for tokens of Microsoft's Entra ID, which the engine does not offer: 40 modules, 2 MB.
    sys.modules["jwt"] = ModuleType("jwt")
    try:
        import redis.asyncio  # noqa: F401
    finally:
        del sys.modules["jwt"]
