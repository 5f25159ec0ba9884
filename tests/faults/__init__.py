"""Fault injection: a real engine is hurt in many ways, and a checker looks for what was lost.

`make faults` runs everything; CONTRIBUTING.md says more.
"""
