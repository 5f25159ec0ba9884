"""The command line: the processes of the engine, and the commands that talk to its API."""
