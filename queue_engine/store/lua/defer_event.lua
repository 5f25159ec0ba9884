-- Defer the delivery of a worker's status event without an attempt, because its destination is not served now. An event that
-- is too old is given up instead, and the worker's next event is due.
--
-- flags: allow-oom
-- keys of a worker: delivery, outbox, outbox_parked
-- arguments: entry_id text, delay_ms integer, max_age_ms integer
-- replies:
--   OK
--   GIVEN_UP
--   STALE
drop(outbox, 'delivery', entry_id)
local entry, begun = unpack(redis.call('HMGET', delivery, 'entry', 'created'))
if entry ~= entry_id then return { 'STALE' } end
local now = now_ms()
if now - tonumber(begun) > max_age_ms then
  next_event(max_age_ms)
  return { 'GIVEN_UP' }
end
redis.call('HDEL', delivery, 'entry', 'owner')
redis.call('ZADD', outbox_parked, text(now + delay_ms), id_of_delivery(delivery))
return { 'OK' }
