"""Connections to Redis and Valkey: a single server, Sentinel or a cluster."""
