-- Queue an ended task again with fresh budgets. Its result and the delivery of the result are removed. Not allowed at maxmemory,
-- because it is new work.
--
-- label: run_again
-- flags: durable
-- keys of a task: task, body, result, history, attempts_log, counts, endpoint, live, queue
-- arguments: call_id text
-- replies:
--   OK
--   ALREADY (the same call has queued the task before)
--   BUSY (the task has not ended)
--   CLOSED (the endpoint is stopped or failed)
--   FULL
--   GONE
local state, call, attempts, started, noted, seq, place =
  unpack(redis.call('HMGET', task, 'state', 'call', 'attempts', 'started', 'noted', 'seq', 'result_at'))
if not state then return { 'GONE' } end
if call == call_id then return { 'ALREADY' } end
if not TERMINAL[state] then return { 'BUSY' } end
local desired, failed, max_queued = unpack(redis.call('HMGET', endpoint, 'wanted', 'failed', 'max_queued'))
if desired == 'deleted' then return { 'GONE' } end
if desired ~= 'running' or failed == '1' then return { 'CLOSED' } end
local waiting = redis.call('HMGET', counts, 'queued', 'scheduled')
if (tonumber(waiting[1]) or 0) + (tonumber(waiting[2]) or 0) >= tonumber(max_queued) then return { 'FULL' } end

if started and not noted then
  local why = nil
  if state ~= 'succeeded' then why = read_result(MAX_WHY_BYTES) end
  note_attempt(redis.call('HGET', task, 'finished'), OUTCOME[state], why)
end
undo_end()
if place then
  redis.call('SET', body, redis.call('GETRANGE', body, 0, place - 1))
else
  redis.call('DEL', result)
end
add_use('bytes', redis.call('STRLEN', body) + TASK_BYTES)
for _, key in ipairs({ task, body, history, attempts_log }) do redis.call('PERSIST', key) end
-- Remove the deadline too, because it counted from the first submission and would expire the task.
redis.call('HDEL', task, 'deadline', 'ttl', 'finished', 'fin', 'result_at', 'token', 'retry_token', 'cancel', 'resets',
  'busy_since', 'busy_tries', 'spared', 'delivery', 'delivery_attempts', 'delivery_error', 'delivered', 'next_delivery', 'delivery_parked')
local _, task_id = names_of(task)
redis.call('HSET', task, 'state', 'queued', 'entry', redis.call('XADD', queue, '*', 't', task_id),
  'updated', text(now_ms()), 'lost', 0, 'base', attempts, 'call', call_id)
redis.call('HINCRBY', task, 'runs', 1)
redis.call('ZADD', live, seq, task_id)
count_move(nil, 'queued')
return { 'OK' }
