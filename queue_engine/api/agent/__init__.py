"""`/agent/v1/…`: the dialect of agents, in the frames of `queue_engine/agent_protocol`."""
