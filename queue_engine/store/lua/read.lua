-- Read a task.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result
-- arguments: is_whole flag (input and output too), max_bytes optional integer (of these two together; none: no limit)
-- replies:
--   OK: fields map, front bytes (the spec, and the input when whole), result bytes (the error, and the output when whole)
--   LONG: fields map, spec bytes, error bytes, input_bytes integer, output_bytes integer (to be read with read_part)
--   GONE
local fields = redis.call('HGETALL', task)
if #fields == 0 then return { 'GONE' } end
if not is_whole then return { 'OK', fields, read_spec(), read_error() } end
local state, spec, place = unpack(redis.call('HMGET', task, 'state', 'spec', 'result_at'))
if place then
  local content = redis.call('GET', body) or ''
  return { 'OK', fields, string.sub(content, 1, place), string.sub(content, place + 1) }
end
if max_bytes then
  local input_bytes = redis.call('STRLEN', body) - tonumber(spec)
  local output_bytes = state == 'succeeded' and redis.call('STRLEN', result) or 0
  if input_bytes + output_bytes > max_bytes then
    return { 'LONG', fields, read_spec(), read_error(), input_bytes, output_bytes }
  end
end
return { 'OK', fields, redis.call('GET', body) or '', redis.call('GET', result) or '' }
