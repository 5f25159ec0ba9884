"""The public API, version 2: `/v2/…`."""
