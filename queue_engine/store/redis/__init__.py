"""Connections to Redis and Valkey: one server, sentinels, a cluster."""
