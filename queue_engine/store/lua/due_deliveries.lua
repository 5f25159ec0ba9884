-- Find the deliveries of a partition whose wait is over.
--
-- flags: no-writes, allow-oom
-- keys: waiting (outbox_due or outbox_parked)
-- arguments: limit integer
-- replies:
--   OK: delivery_ids list of text, next_ms optional integer (time until the next one; 0 when the limit leaves some)
local now = now_ms()
local ids = redis.call('ZRANGEBYSCORE', waiting, '-inf', text(now), 'LIMIT', 0, limit)
if #ids == limit then return { 'OK', ids, 0 } end
return { 'OK', ids, next_due(waiting, '(' .. text(now), now) }
