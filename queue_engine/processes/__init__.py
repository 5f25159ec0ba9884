"""Child processes and this one: start, watch, end, standard files."""
