"""Clients and listeners on a network."""
