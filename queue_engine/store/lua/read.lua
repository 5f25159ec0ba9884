-- Read a task.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result
-- arguments: is_whole flag (input and output too)
-- replies:
--   OK: fields map, front bytes (the spec, and the input when whole), result bytes (the error, and the output when whole)
--   GONE
local fields = redis.call('HGETALL', task)
if #fields == 0 then return { 'GONE' } end
if is_whole then
  local content, place = redis.call('GET', body) or '', redis.call('HGET', task, 'result_at')
  if place then return { 'OK', fields, string.sub(content, 1, place), string.sub(content, place + 1) } end
  return { 'OK', fields, content, redis.call('GET', result) or '' }
end
return { 'OK', fields, read_spec(), read_error() }
