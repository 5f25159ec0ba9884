"""Encryption, signatures, and secrets from files."""
