-- Cancel a task. A waiting task ends at once. The agent of a running task learns of it with the next heartbeat.
--
-- flags: allow-oom, durable
-- keys of a task: task
-- replies:
--   CANCELLED (the task has ended by this call)
--   REQUESTED (the task runs, and its agent will stop it)
--   ENDED (the task had ended before)
--   GONE
local state, attempts, base = unpack(redis.call('HMGET', task, 'state', 'attempts', 'base'))
if not state then return { 'GONE' } end
if TERMINAL[state] then return { 'ENDED' } end
if state == 'running' then
  redis.call('HSET', task, 'cancel', 1)
  return { 'REQUESTED' }
end
stop_waiting()
redis.call('HSET', task, 'cancel', 1)
local has_run = tonumber(attempts) ~= tonumber(base or '0')
end_task(now_ms(), state, 'cancelled', has_run and CANCELLED_WHILE_WAITING or CANCELLED_BEFORE_IT_STARTED)
return { 'CANCELLED' }
