-- Read a task without its input and output.
--
-- flags: no-writes, allow-oom
-- keys of a task: task
-- replies:
--   OK: fields map, spec bytes, error bytes
--   GONE
local fields = redis.call('HGETALL', task)
if #fields == 0 then return { 'GONE' } end
return { 'OK', fields, read_spec(), read_error() }
