-- Find the deliveries of a partition whose wait is over.
--
-- flags: no-writes, allow-oom
-- keys: waiting (outbox_due or outbox_parked)
-- arguments: limit integer
-- replies:
--   OK: delivery_ids list of text
return { 'OK', redis.call('ZRANGEBYSCORE', waiting, '-inf', text(now_ms()), 'LIMIT', 0, limit) }
