"""The users of the store, as rules of its access control list (ACL), for Redis 7.0, Valkey 7.2 and newer.

| user | is for | may |
| --- | --- | --- |
| `engine` | API, controller, delivery, operators | everything |
| `agent` | agents on the store | what their scripts and their blocking reads do |
| `metrics` | exporters and health checks | INFO and PING |

A script runs with the rights of its caller. So the rules of `agent` name each command that the agents' scripts use,
and the keys on which they use it: a group in parentheses for each type of keys. EVALSHA alone covers all these keys,
because the servers check the keys of a script as if it wrote to them. An endpoint's hash is in no group that writes.

The scripts of all endpoints in a partition share keys, so the rules cannot keep an agent to the keys of its endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

ENGINE, AGENT, METRICS = "engine", "agent", "metrics"
_PARTITION = "{p??}:"

_READ_ONLY = (("hget", "hmget", "hgetall", "exists"), ("e:*",))
_GROUPS: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (
        ("hget", "hmget", "hset", "hdel", "hincrby", "hexists", "hlen", "hvals", "exists", "pexpire"),
        ("t:*", "w:*", "cnt", "cnt:*", "workers:*", "wk:*"),
    ),
    (("del",), ("wk:*",)),
    (("get", "getrange", "set", "strlen", "pexpire"), ("b:*", "r:*", "mark")),
    (("rpush", "lpush", "lpop", "lindex", "lset", "ltrim", "pexpire"), ("at:*", "ev:*")),
    (("xreadgroup", "xautoclaim", "xack", "xdel", "xpending", "xgroup|create", "xgroup|delconsumer"), ("q:*",)),
    (("xrange",), ("q:*:turn",)),
    (("zadd", "zrem", "zrangebylex"), ("q:*:lane",)),
    (("hget", "hset", "hsetnx", "hdel", "hincrby", "exists"), ("q:*:lanes",)),
    (("exists", "llen", "lpop", "rpush"), ("q:*:ring:*",)),
    (("exists", "sadd", "srem"), ("q:*:parked",)),
    (("blpop", "llen", "rpush", "del"), ("q:*:bell",)),
    (("xadd",), ("q:*", "out", "fin:*", "log:*")),
    (("xlen", "xrevrange", "xtrim", "xinfo|stream", "exists", "pexpire", "unlink"), ("log:*",)),
    (("zadd", "zrem"), ("lease", "due", "exp", "purge", "check", "delete", "live:*", "logs:*", "evr:*")),
    (("zcard", "zrange", "zremrangebyscore", "pexpire"), ("logs:*",)),
    (("sadd",), ("waiting",)),
)
"""Commands, and patterns of the keys of a partition on which `agent` may run them."""
_UNSEALED = "(+sadd +scard +pexpire ~{qe}:unsealed)"
_META = "(+hget +hmget %R~{qe}:meta)"
_CANCELS = f"(+xread %R~{_PARTITION}cancels)"
_ENDS = f"(+spublish &{_PARTITION}told:*)"
"""Messages about ends of tasks, to the API processes that wait for them. They are hints: a process reads the task."""
_WITHOUT_KEYS = (
    # The category has WAIT, WAITAOF and ASKING. They cannot be named: Redis 7.0 refuses a rule that names WAITAOF.
    *("+@connection", "-@admin", "-@dangerous", "-client", "-command"),
    *("+info", "+time", "+cluster|slots", "+evalsha"),
)


def rules_of(user: str) -> str:
    """Return the rules of a user without its password, on one line."""
    return _RULES[user]


def acl_lines(passwords: Mapping[str, str]) -> list[str]:
    """Return the lines that define the users with these passwords, which they contain as hashes only.

    The user that has no name is turned off.
    """
    hashes = {user: sha256(password.encode()).hexdigest() for user, password in passwords.items()}
    users = (f"user {user} on #{hashed} {rules_of(user)}" for user, hashed in hashes.items())
    return ["user default off", *users]


def _agent_rules() -> str:
    patterns = sorted({pattern for _, keys in (_READ_ONLY, *_GROUPS) for pattern in keys})
    called = [f"~{_PARTITION}{pattern}" for pattern in patterns]
    groups = [_group(commands, keys, "~") for commands, keys in _GROUPS]
    others = (_META, _UNSEALED, _CANCELS, _ENDS, _group(*_READ_ONLY, "%R~"))
    whole = (*_WITHOUT_KEYS, *called, "~{qe}:unsealed", *others, *groups)
    return " ".join(("resetchannels", "-@all", *whole))


def _group(commands: Sequence[str], keys: Sequence[str], access: str) -> str:
    words = [*(f"+{command}" for command in commands), *(f"{access}{_PARTITION}{pattern}" for pattern in keys)]
    return f"({' '.join(words)})"


_RULES = {
    ENGINE: "~* &* +@all",
    AGENT: _agent_rules(),
    METRICS: "resetchannels -@all +info +ping",
}
