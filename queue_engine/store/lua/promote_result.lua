-- Add the delivery of a task's result whose wait is over to the outbox.
--
-- flags: allow-oom
-- keys of a task: delivery, outbox
-- keys: waiting (outbox_due or outbox_parked)
-- replies:
--   OK
--   STALE (the delivery is not due, or has ended)
local delivery_id = id_of_delivery(delivery)
local due_at = tonumber(redis.call('ZSCORE', waiting, delivery_id) or '')
if due_at == nil or due_at > now_ms() then return { 'STALE' } end
redis.call('ZREM', waiting, delivery_id)
local created, is_counted = unpack(redis.call('HMGET', delivery, 'created', 'counted'))
if not created then return { 'STALE' } end
local destination = result_destination()
if not destination then
  end_delivery(is_counted)
  return { 'STALE' }
end
redis.call('HSET', delivery, 'entry', redis.call('XADD', outbox, '*', 'd', delivery_id, 'h', destination))
return { 'OK' }
