"""`/e/{id}/…`: requests to the workers of ALB endpoints."""
