-- Record what came of one attempt to send a worker's status event; when it is done with, the worker's next one is due.
--
-- flags: allow-oom, durable
-- keys of a worker: delivery, outbox, outbox_due
-- arguments:
--   entry_id text, process_id text, verdict text (delivered, again or given_up), delay_ms integer (when again),
--   max_age_ms integer (of an event that is still sent)
-- replies:
--   OK: created_ms integer, now_ms integer
--   FENCED (another process has it, or it was settled before)
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
