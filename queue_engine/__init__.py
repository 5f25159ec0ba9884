"""A self-hosted engine for QUEUE-mode serverless endpoints.

Programs use it by its HTTP API and its command line. The names in `__all__` are all that a Python program may import;
every other module may change with any version.
"""

__all__ = ["__version__"]

__version__ = "0.2.0"
