"""Tools for processes: start, watch and end child processes, and this process's signals and standard files."""
