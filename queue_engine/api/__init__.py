"""The HTTP API: what docs/api.md and `/openapi.json` describe."""
