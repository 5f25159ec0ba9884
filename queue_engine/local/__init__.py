"""The whole engine on one machine: `queue-engine up` and its embedded Valkey server."""
