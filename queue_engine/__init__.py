"""A self-hosted engine for QUEUE-mode serverless endpoints.

Programs use its HTTP API, its command line, or its Python client, `queue_engine.client`. Python programs may import
only the names in `__all__` of these two packages, because every other name may change with any version.
"""

__all__ = ["__version__"]

__version__ = "0.3.0.dev0"
