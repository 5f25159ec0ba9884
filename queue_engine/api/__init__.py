"""The HTTP API, as `/openapi.json` describes it."""
