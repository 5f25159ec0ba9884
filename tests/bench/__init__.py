"""Benchmarks: `make bench`. Everything runs on this machine, on loopback, bounded in count and time."""
