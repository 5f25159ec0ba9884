"""The log of a worker: what its container writes, as lines without secrets, on their way to the task source."""
