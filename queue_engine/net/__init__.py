"""Network clients, listeners and addresses."""
