-- Read a task with what only its detail has: times that sorted sets and indexes have, and lengths. A list does without these keys.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result, due, deadlines, finished_success, finished_delivered, finished_failed, attempts_log
-- arguments: is_whole flag (input and output too), max_bytes optional integer (of these two together; none: no limit),
--   head_bytes optional integer (of each of them, when not whole)
-- replies:
--   OK: fields map, next_attempt_ms optional integer (when it is scheduled), expires_ms optional integer (its deadline while it waits),
--     kept_from_ms optional integer (the time in the index of ended tasks, from which its retention counts), removed_ms optional integer
--     (when the store removes its data itself), input_bytes integer, output_bytes optional integer (of a task that succeeded),
--     latest_delivery optional bytes (the latest record of the ledger while its delivery fails),
--     front bytes (the spec, and the input when whole, or its head), result bytes (the error, and the output when whole, or its head)
--   LONG: fields map, next_attempt_ms optional integer, expires_ms optional integer, kept_from_ms optional integer, removed_ms optional
--     integer, input_bytes integer, output_bytes optional integer, latest_delivery optional bytes, spec bytes,
--     error bytes (the rest is to be read with read_part)
--   GONE
local fields = redis.call('HGETALL', task)
if #fields == 0 then return { 'GONE' } end
local state, spec, place, deadline, fin, delivered =
  unpack(redis.call('HMGET', task, 'state', 'spec', 'result_at', 'deadline', 'fin', 'delivery'))
local member = names_of(task)
local next_attempt = state == 'scheduled' and redis.call('ZSCORE', due, member)
local expiry = deadline and redis.call('ZSCORE', deadlines, member)
local kept_from, removed = false, false
if TERMINAL[state] then
  local index = finished_failed
  if state == 'succeeded' then index = delivered == 'SUCCESS' and finished_delivered or finished_success end
  local entry = fin and redis.call('XRANGE', index, fin, fin)[1]
  kept_from, removed = entry and string.match(entry[1], '%d+$') or false, redis.call('PEXPIRETIME', task)
  if removed < 0 then removed = false end
end
local latest_delivery = delivered == 'FAILED' and redis.call('LINDEX', attempts_log, -1)
local body_bytes = redis.call('STRLEN', body)
local input_bytes, output_bytes = math.max((tonumber(place) or body_bytes) - tonumber(spec), 0), false
if state == 'succeeded' then output_bytes = place and body_bytes - tonumber(place) or redis.call('STRLEN', result) end
if is_whole and not place and max_bytes and input_bytes + (output_bytes or 0) > max_bytes then
  return { 'LONG', fields, next_attempt, expiry, kept_from, removed, input_bytes, output_bytes, latest_delivery, read_spec(),
    read_error() }
end
local front, rest = nil, nil
if not is_whole and head_bytes then
  front = redis.call('GETRANGE', body, 0, tonumber(spec) + math.min(head_bytes, input_bytes) - 1)
  if state ~= 'succeeded' then
    rest = read_error()
  elseif place then
    rest = redis.call('GETRANGE', body, place, place + head_bytes - 1)
  else
    rest = redis.call('GETRANGE', result, 0, head_bytes - 1)
  end
elseif not is_whole then
  front, rest = read_spec(), read_error()
elseif place then
  local content = redis.call('GET', body) or ''
  front, rest = string.sub(content, 1, place), string.sub(content, place + 1)
else
  front, rest = redis.call('GET', body) or '', redis.call('GET', result) or ''
end
return { 'OK', fields, next_attempt, expiry, kept_from, removed, input_bytes, output_bytes, latest_delivery, front, rest }
