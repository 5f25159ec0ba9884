-- Read the request of an accepted task, for a comparison with another request.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body
-- arguments: max_bytes integer (of the input)
-- replies:
--   OK: fingerprint text, input optional bytes (none when the input is longer)
--   GONE
local fingerprint, spec, last = unpack(redis.call('HMGET', task, 'print', 'spec', 'result_at'))
if not fingerprint then return { 'GONE' } end
last = tonumber(last or redis.call('STRLEN', body))
if last - tonumber(spec) > max_bytes then return { 'OK', fingerprint, false } end
return { 'OK', fingerprint, redis.call('GETRANGE', body, spec, last - 1) }
