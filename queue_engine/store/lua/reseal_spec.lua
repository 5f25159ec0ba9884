-- Replace a task's spec by the same spec sealed with another key. The rest of the body is not changed.
--
-- flags: allow-oom
-- keys of a task: task, body
-- arguments: before bytes (the spec that was read), after bytes
-- replies:
--   OK
--   STALE (the spec was changed since it was read, or there is no such task)
local length, place, state = unpack(redis.call('HMGET', task, 'spec', 'result_at', 'state'))
if length ~= text(#before) or redis.call('GETRANGE', body, 0, #before - 1) ~= before then return { 'STALE' } end
redis.call('SET', body, after .. redis.call('GETRANGE', body, #before, -1), 'KEEPTTL')
redis.call('HSET', task, 'spec', #after)
-- The bytes of an ended task are those in its index, whatever its length is now.
if not TERMINAL[state] and #after ~= #before then add_use('bytes', #after - #before) end
if place then redis.call('HSET', task, 'result_at', place + #after - #before) end
return { 'OK' }
