"""Settings of all processes, each defined once: docs/reference/configuration.md is made from them."""
