#!lua flags=no-writes,allow-oom
-- Deliveries of one partition whose wait is over.
-- KEYS 1 outbox due or outbox parked
-- ARGV 1 most
-- Reply delivery ids
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now_ms()), 'LIMIT', 0, ARGV[1])
