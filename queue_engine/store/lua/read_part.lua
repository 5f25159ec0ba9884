-- Read a part of the input or the output of a task, if they are still those that the caller has begun to read.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result
-- arguments: number text (of the task), finished optional text (time of its end), is_output flag, offset integer, length integer
-- replies:
--   OK: part bytes
--   GONE (the task was removed, or has no output or another one since)
local found, ended, spec = unpack(redis.call('HMGET', task, 'number', 'finished', 'spec'))
if found ~= number or (is_output and (ended or '') ~= (finished or '')) then return { 'GONE' } end
local first = is_output and offset or offset + tonumber(spec)
return { 'OK', redis.call('GETRANGE', is_output and result or body, first, first + length - 1) }
