-- Add the delivery of a task's result whose wait is over to the outbox.
--
-- flags: allow-oom
-- keys of a task: delivery, outbox, task, counts
-- keys: waiting (outbox_due or outbox_parked)
-- replies:
--   OK
--   STALE (the delivery is not due, or has ended)
local delivery_id = id_of_delivery(delivery)
local due_at = tonumber(redis.call('ZSCORE', waiting, delivery_id) or '')
if due_at == nil or due_at > now_ms() then return { 'STALE' } end
redis.call('ZREM', waiting, delivery_id)
restore_delivery()
local created, is_counted = unpack(redis.call('HMGET', delivery, 'created', 'counted'))
if not created then
  -- The task's data has expired, and the delivery that it kept. The counts of a removed endpoint are not made again.
  if redis.call('EXISTS', task) == 0 and redis.call('EXISTS', counts) == 1 then add_use('deliveries', -1) end
  return { 'STALE' }
end
local destination = result_destination()
if not destination then
  end_delivery(is_counted)
  return { 'STALE' }
end
redis.call('HSET', delivery, 'entry', redis.call('XADD', outbox, '*', 'd', delivery_id, 'h', destination))
return { 'OK' }
