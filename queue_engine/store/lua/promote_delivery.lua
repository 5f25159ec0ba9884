-- Add the delivery of a worker's status events whose wait is over to the outbox.
--
-- flags: allow-oom
-- keys of a partition: outbox
-- keys: delivery, waiting (outbox_due or outbox_parked)
-- arguments: delivery_id text
-- replies:
--   OK
--   STALE (the delivery is not due, or has ended)
local now = now_ms()
local due_at = tonumber(redis.call('ZSCORE', waiting, delivery_id) or '')
if due_at == nil or due_at > now then return { 'STALE' } end
redis.call('ZREM', waiting, delivery_id)
local destination = redis.call('HGET', delivery, 'destination')
if not destination then return { 'STALE' } end
redis.call('HSET', delivery, 'entry', redis.call('XADD', outbox, '*', 'd', delivery_id, 'h', destination))
return { 'OK' }
