"""The ports of an agent over the engine's API."""
