-- Read the data for a delivery attempt of a task's result, and record the process that makes the attempt.
--
-- flags: allow-oom
-- keys of a task: delivery, outbox, task
-- arguments: entry_id text, process_id text
-- replies:
--   OK: attempts integer (to deliver), created_ms integer, number integer (of the task), executions integer (attempts of the
--     task), reruns integer, has_succeeded flag, finished_ms integer, spec bytes, result bytes (output or error),
--     is_too_large flag (the result is too large and left out), signing_secrets list of text (sealed),
--     sends integer (attempts of all deliveries of this result)
--   STALE (the delivery is not due by this entry, because the entry was read twice or the delivery has ended)
local entry, is_counted = unpack(redis.call('HMGET', delivery, 'entry', 'counted'))
-- Only the fields that a webhook's body has: all of them took 12 µs of a delivery to read in Python.
local state, number, executions, reruns, finished, updated, sends =
  unpack(redis.call('HMGET', task, 'state', 'number', 'attempts', 'runs', 'finished', 'updated', 'delivery_attempts'))
if entry ~= entry_id or not state then
  drop(outbox, 'delivery', entry_id)
  if not state then end_delivery(is_counted) end
  return { 'STALE' }
end
redis.call('HSET', delivery, 'owner', process_id)
local attempts, created = unpack(redis.call('HMGET', delivery, 'attempts', 'created'))
local value = read_result(MAX_RESULT_BYTES + 1)
local is_too_large = #value > MAX_RESULT_BYTES
if is_too_large then value = '' end
return { 'OK', attempts, created, number, executions, reruns or 0, state == 'succeeded', finished or updated, read_spec(), value,
  is_too_large, signing_secrets(), sends or 0 }
