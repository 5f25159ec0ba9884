"""The agent beside a worker's container: it claims tasks, forwards them and records their outcomes.

It is a program, `worker-agent`, and exports no names to other Python programs.
"""

__all__: list[str] = []
