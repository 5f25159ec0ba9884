"""The command line for people: endpoints, workers, logs and tasks, over the HTTP API and nothing else."""
