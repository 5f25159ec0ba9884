"""Tests of the backends on real platforms: container engines and clusters. `make test-clusters`."""
