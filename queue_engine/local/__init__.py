"""The whole engine on one machine: `queue-engine up` and the Valkey that comes with it."""
