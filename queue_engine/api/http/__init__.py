"""HTTP itself: server, protocol, bodies, authentication, limits, operations and errors, with no words of a dialect."""
