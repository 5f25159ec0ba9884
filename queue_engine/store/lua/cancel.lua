-- Cancel a task. A waiting task ends at once. The agent of a running task learns of it at once by an entry in the partition's
-- stream, which agents and API processes read, and with the next heartbeat at the latest.
--
-- flags: allow-oom, durable
-- keys of a task: task, cancel_requests
-- arguments: call_id text (of this call, so that a repeated call gets the same reply)
-- replies:
--   CANCELLED (the task has ended by this call)
--   REQUESTED (the task runs, and its agent will stop it)
--   REPEATED (the same, by an earlier call)
--   ENDED (the task had ended before)
--   GONE
local state, attempts, base, call, worker = unpack(redis.call('HMGET', task, 'state', 'attempts', 'base', 'cancel', 'worker'))
if not state then return { 'GONE' } end
if TERMINAL[state] then return { state == 'cancelled' and call == call_id and 'CANCELLED' or 'ENDED' } end
if state == 'running' then
  if call and call ~= call_id then return { 'REPEATED' } end
  redis.call('HSET', task, 'cancel', call_id)
  redis.call('XADD', cancel_requests, 'MAXLEN', '~', MAX_CANCEL_REQUESTS, '*', 't', (names_of(task)), 'w', worker or '')
  redis.call('PEXPIRE', cancel_requests, CANCEL_REQUESTS_MS)
  return { 'REQUESTED' }
end
stop_waiting()
redis.call('HSET', task, 'cancel', call_id)
local has_run = tonumber(attempts) ~= tonumber(base or '0')
end_task(now_ms(), state, 'cancelled', has_run and CANCELLED_WHILE_WAITING or CANCELLED_BEFORE_IT_STARTED)
return { 'CANCELLED' }
