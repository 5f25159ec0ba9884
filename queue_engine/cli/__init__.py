"""The command line: the processes of the engine, and the commands that call its API."""
