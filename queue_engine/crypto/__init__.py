"""Encryption, signatures and the files that secrets come from."""
