"""Workers as pods of Kubernetes clusters.

A worker is a pod with two containers, the agent and the endpoint's. Pods outlive the controller. Everything is found
again by its labels (`names.py`); nothing is stored elsewhere.
"""
