"""Workers as pairs of containers on one host with a Docker-compatible engine (Docker, Podman).

A worker is an agent's container, which has the network, and the endpoint's container, which joins it. Both outlive the
controller. Everything is found again by its labels (`names.py`); nothing is stored elsewhere.
"""
