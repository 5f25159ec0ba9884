"""The log of a worker: read its container's output, mask secrets in it, and send it to the engine as lines."""
