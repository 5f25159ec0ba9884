-- Read a part of the input or the output of a task, if they are still those that the caller has begun to read.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result
-- arguments: number text (of the task), finished optional text (time of its end), is_output flag, offset integer, length integer
-- replies:
--   OK: part bytes
--   GONE (the task was removed, or has no output or another one since)
local found, ended, spec, place = unpack(redis.call('HMGET', task, 'number', 'finished', 'spec', 'result_at'))
if found ~= number or (is_output and (ended or '') ~= (finished or '')) then return { 'GONE' } end
local is_apart = is_output and not place
local first = is_apart and offset or offset + tonumber(is_output and place or spec)
return { 'OK', redis.call('GETRANGE', is_apart and result or body, first, first + length - 1) }
