"""Backends run the agents and containers of workers. Each one implements `backends/base.py`."""
