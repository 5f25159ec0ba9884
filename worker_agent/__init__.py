"""The agent beside a worker's container: claims tasks, forwards them, records what comes of them.

It is a program, `worker-agent`, and has no names for other Python programs.
"""

__all__: list[str] = []
