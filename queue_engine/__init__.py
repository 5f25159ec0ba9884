"""A self-hosted engine for QUEUE-mode serverless endpoints."""

__version__ = "0.1.0"
