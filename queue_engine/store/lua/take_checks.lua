-- Take endpoints of a partition whose workers are to be looked at now. If the caller dies, they are due again after the hold. A
-- change of such an endpoint makes it due at once, so that plan_check.lua notices the change.
--
-- flags: allow-oom
-- keys of a partition: due_checks
-- arguments: hold_ms integer, limit integer
-- replies:
--   OK: held_until_ms integer, endpoint_ids list of text
local now = now_ms()
local held_until = text(now + hold_ms)
local ids = redis.call('ZRANGEBYSCORE', due_checks, '-inf', text(now), 'LIMIT', 0, limit)
-- After a step back of the clock the planned looks would be late by the step.
local latest = '(' .. text(now + MAX_CHECK_MS)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due_checks, latest, '+inf', 'LIMIT', 0, limit - #ids)) do ids[#ids + 1] = id end
for _, id in ipairs(ids) do redis.call('ZADD', due_checks, held_until, id) end
return { 'OK', held_until, ids }
