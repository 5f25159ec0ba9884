"""The use cases of agents that call this process instead of the store."""
