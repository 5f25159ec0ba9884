"""Log lines of containers: turn output into lines, mask secrets, and limit the number of lines."""
