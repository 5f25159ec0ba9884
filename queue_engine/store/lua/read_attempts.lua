-- Read a task and the history of its attempts in one step, so that each attempt is in exactly one of the two.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, history
-- replies:
--   OK: fields map, spec bytes, result bytes (the error), records list of bytes (JSON)
--   GONE
local fields = redis.call('HGETALL', task)
if #fields == 0 then return { 'GONE' } end
return { 'OK', fields, read_spec(), read_error(), redis.call('LRANGE', history, 0, -1) }
