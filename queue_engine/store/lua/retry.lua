-- Schedule the retry of a running task. The task ends instead when its cancellation was requested, or when a busy streak has
-- used up its last attempt.
--
-- flags: allow-oom, durable
-- keys of a task: task, leases, due, deadlines
-- arguments:
--   token text, delay_ms integer, retry_after_ms optional integer (of the container; with the cost `busy` only), outcome text,
--   why bytes (the shortened error),
--   cost text (`attempt`; `busy`: an attempt for each maxBusySeconds of the busy streak; `nothing`: the worker has not served
--     yet, and the task is queued again at once),
--   last_error bytes (for a task whose busy streak has used up its last attempt)
-- replies:
--   OK
--   CANCELLED
--   FAILED: created_ms integer, started_ms integer, now_ms integer (no attempt is left)
--   ALREADY
--   FENCED
--   GONE
local state, holder, retried, deadline, lane =
  unpack(redis.call('HMGET', task, 'state', 'token', 'retry_token', 'deadline', 'lane'))
if not state then return { 'GONE' } end
local now = now_ms()
if state ~= 'running' or holder ~= token then
  if retried == token then return { 'ALREADY' } end
  if not readopt(task, token, now) then return { 'FENCED' } end
end
local is_spent, wait_ms = cost == 'attempt', delay_ms
if is_spent then
  end_busy_streak()
  note_attempt(now, outcome, why)
else
  if cost == 'busy' then is_spent, wait_ms = extend_busy_streak(now, delay_ms, retry_after_ms) end
  note_try(now, outcome, why)
end
redis.call('HSET', task, 'updated', text(now), 'retry_token', token)
redis.call('HDEL', task, 'token')
if outcome == 'connection_lost' then redis.call('HINCRBY', task, 'resets', 1) end
if redis.call('HEXISTS', task, 'cancel') == 1 then
  end_task(now, 'running', 'cancelled', CANCELLED_WHILE_RUNNING)
  return { 'CANCELLED' }
end
if not is_spent then
  redis.call('HINCRBY', task, 'attempts', -1)
elseif cost == 'busy' then
  local attempts, base, lost, max = unpack(redis.call('HMGET', task, 'attempts', 'base', 'lost', 'max'))
  if attempts - (base or 0) - lost >= tonumber(max) then
    end_task(now, 'running', 'failed', last_error)
    local created, started, run_at = unpack(redis.call('HMGET', task, 'created', 'started', 'run_at'))
    return { 'FAILED', run_at or created, started, text(now) }
  end
end
local member, task_id = names_of(task)
local state_after = 'scheduled'
if lane then leave_key(lane) end
if cost == 'nothing' then
  state_after = 'queued'
  redis.call('HSET', task, 'entry', queue_again(lane, task_id))
else
  redis.call('ZADD', due, text(now + wait_ms), member)
end
redis.call('HSET', task, 'state', state_after)
redis.call('ZREM', leases, member)
if deadline then redis.call('ZADD', deadlines, deadline, member) end
count_move('running', state_after)
if state_after == 'queued' then ring_bell() end
return { 'OK' }
