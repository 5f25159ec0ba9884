"""What needs no API key: health, metrics and the description of the API."""
