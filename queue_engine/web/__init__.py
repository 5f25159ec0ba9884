"""The web console: its files, its sessions, and the API under `/console/api`."""
