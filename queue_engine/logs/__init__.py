"""Log lines of containers: from the bytes that a container writes to lines without secrets, limited in number."""
