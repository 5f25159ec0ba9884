-- Defer the delivery of a task's result without an attempt, because its destination is not served now. The task's data is
-- kept at least until then. A delivery that is too old is given up instead.
--
-- flags: allow-oom
-- keys of a task: delivery, outbox, outbox_parked, task, body, result, attempts_log, history
-- arguments: entry_id text, delay_ms integer, max_age_ms integer, is_parked flag (its destination is parked),
--   may_keep flag (the task keeps the delivery; a process of version 0.2 would need the delivery's key)
-- replies:
--   OK
--   GIVEN_UP
--   STALE
drop(outbox, 'delivery', entry_id)
local entry, begun, is_counted, attempts, trigger, operation =
  unpack(redis.call('HMGET', delivery, 'entry', 'created', 'counted', 'attempts', 'trigger', 'operation'))
if entry ~= entry_id then return { 'STALE' } end
local now = now_ms()
if redis.call('EXISTS', task) == 0 then
  end_delivery(is_counted)
  return { 'STALE' }
end
if now - tonumber(begun) > max_age_ms then
  end_delivery(is_counted)
  give_up(now, 'the result is no longer sent, because the receiver was not served for more than '
    .. math.floor(max_age_ms / 3600000) .. ' hours')
  return { 'GIVEN_UP' }
end
if may_keep and is_counted then
  keep_delivery(begun, attempts, trigger, operation)
else
  redis.call('HDEL', delivery, 'entry', 'owner')
end
local due_at = text(now + delay_ms)
redis.call('ZADD', outbox_parked, due_at, id_of_delivery(delivery))
if is_parked then
  redis.call('HSET', task, 'next_delivery', due_at, 'delivery_parked', '1')
else
  redis.call('HDEL', task, 'delivery_parked')
end
local ttl = text(math.max(redis.call('PTTL', task), delay_ms + EXPIRY_SLACK_MS))
for _, key in ipairs({ task, body, result, attempts_log, history }) do redis.call('PEXPIRE', key, ttl) end
return { 'OK' }
