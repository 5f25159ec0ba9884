"""The agent beside a worker's container: claims tasks, forwards them, records what comes of them."""
