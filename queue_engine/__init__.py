"""A self-hosted engine for QUEUE-mode serverless endpoints.

Programs use its HTTP API and its command line. Python programs may import only the names in `__all__`, because every
other name may change with any version.
"""

__all__ = ["__version__"]

__version__ = "0.2.0"
