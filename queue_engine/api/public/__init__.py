"""Routes without an API key: health, metrics and the description of the API."""
