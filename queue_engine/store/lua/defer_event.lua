-- Put the delivery of a worker's status event off without an attempt: its receiver is not served now. An event that has
-- become too old meanwhile is given up, and the worker's next one is due.
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
