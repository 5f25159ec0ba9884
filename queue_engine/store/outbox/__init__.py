"""The outbox of deliveries: results of tasks and status events of workers, on their way to webhooks."""
