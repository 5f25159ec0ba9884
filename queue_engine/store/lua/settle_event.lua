-- Record the result of a delivery attempt for a worker's status event. When the event has ended, the worker's next event is due.
--
-- flags: allow-oom, durable
-- keys of a worker: delivery, outbox, outbox_due
-- arguments:
--   entry_id text, process_id text, verdict text (delivered, again or given_up), delay_ms integer (for again),
--   max_age_ms integer (older events are skipped)
-- replies:
--   OK: created_ms integer, now_ms integer
--   FENCED (another process has the delivery, or it was settled before)
local entry, owner, begun = unpack(redis.call('HMGET', delivery, 'entry', 'owner', 'created'))
if entry ~= entry_id or owner ~= process_id then return { 'FENCED' } end
local now = now_ms()
drop(outbox, 'delivery', entry)
redis.call('HDEL', delivery, 'entry', 'owner')
if verdict == 'again' then
  redis.call('HINCRBY', delivery, 'attempts', 1)
  redis.call('ZADD', outbox_due, text(now + delay_ms), id_of_delivery(delivery))
else
  next_event(max_age_ms)
end
return { 'OK', begun, text(now) }
