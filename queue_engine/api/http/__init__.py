"""HTTP without the vocabulary of a dialect: server, protocol, bodies, authentication, limits, operations and errors."""
