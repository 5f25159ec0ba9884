"""Backends: where the containers of workers run. Each one implements `backends/base.py`."""
