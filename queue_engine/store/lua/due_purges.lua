-- Find the endpoints of a partition that may have ended tasks or consumers to remove.
--
-- flags: no-writes, allow-oom
-- keys of a partition: due_purges
-- arguments: limit integer
-- replies:
--   OK: now_ms integer, endpoint_ids list of text
local now = text(now_ms())
return { 'OK', now, redis.call('ZRANGEBYSCORE', due_purges, '-inf', now, 'LIMIT', 0, limit) }
