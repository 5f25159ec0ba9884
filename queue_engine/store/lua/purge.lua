-- Remove an ended task whose retention is over. A task whose delivery has not ended is kept for another retention time, at the
-- end of its stream.
--
-- flags: allow-oom
-- keys of a task: task, body, result, history, attempts_log, created, counts, delivery, endpoint, tags, tagged
-- keys: stream (of the status)
-- arguments: number text (in the stream), status text (lower case), place text (in the order of creation)
-- replies:
--   PURGED
--   KEPT
--   OK (the entry was stale)
local fields = index_remove(status, stream, number)
if not fields then return { 'OK' } end
local bytes = bytes_in(fields, status)
-- A task with the same id at another place was submitted after the data of the entry's task had expired. It is not removed.
local seq, webhook, has_history, result_at, standing, kept =
  unpack(redis.call('HMGET', task, 'seq', 'webhook', 'history', 'result_at', 'delivery', 'kept_delivery'))
local is_there = seq == place
if is_there and webhook and (kept or redis.call('EXISTS', delivery) == 1) then
  local _, task_id = names_of(task)
  redis.call('HSET', task, 'fin', index_again(status, stream, now_ms(), 't', task_id, 'n', place, 'b', bytes))
  local retention = tonumber(redis.call('HGET', endpoint, 'retention') or '0') * 1000
  local ttl = text(math.max(redis.call('PTTL', task), retention + EXPIRY_SLACK_MS))
  for _, key in ipairs({ task, body, result, attempts_log, history }) do redis.call('PEXPIRE', key, ttl) end
  return { 'KEPT' }
end
redis.call('HINCRBY', counts, status, -1)
if bytes > 0 then add_use('bytes', -bytes) end
index_remove('all', created, place)
local _, its_id = names_of(task)
remove_tags(place, its_id)
if is_there then
  redis.call('DEL', task, body)
  -- Missing keys are not deleted, because the search for a missing key costs as much as a deletion.
  if not result_at then redis.call('DEL', result) end
end
local records = {}
if is_there and webhook then records[1] = attempts_log end
if is_there and has_history then records[#records + 1] = history end
forget_records(place, records)
-- Processes of an earlier version remove tasks without their tags.
if not correct_use() then redis.call('UNLINK', tags, tagged) end
if not seq or (is_there and standing == 'MAX_RETRIES_EXCEEDED') then leave_given_up() end
return { 'PURGED' }
