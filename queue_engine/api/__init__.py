"""The HTTP API: what `/openapi.json` describes."""
