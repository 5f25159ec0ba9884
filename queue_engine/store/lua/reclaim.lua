-- Reclaim a task whose lease has expired. The task is queued again, or ends when too many of its workers were lost or when its
-- cancellation was requested. An attempt that waited for a slot of its agent, and whose call has not begun, costs nothing.
--
-- flags: allow-oom
-- keys of a task: task, leases, deadlines
-- arguments: max_lost integer, lease_ms integer (from which the time of the latest renewal follows)
-- replies:
--   QUEUED: worker_id text, attempts integer
--   UNSTARTED: worker_id text, attempts integer (queued again; the call had not begun)
--   DEAD: worker_id text, attempts integer
--   CANCELLED: worker_id text, attempts integer
--   OK (no change: the lease was renewed, or the task has ended)
local now = now_ms()
local member, task_id = names_of(task)
local lease_end = tonumber(redis.call('ZSCORE', leases, member) or '')
if lease_end == nil or lease_end > now then return { 'OK' } end
local state, token, cancel, worker_id, attempts, marked, deadline, lane =
  unpack(redis.call('HMGET', task, 'state', 'token', 'cancel', 'worker', 'attempts', 'ahead', 'deadline', 'lane'))
if state ~= 'running' then
  redis.call('ZREM', leases, member)
  return { 'OK' }
end
worker_id, attempts = worker_id or '', attempts or 0
local ahead, is_dead = marked and marked == token, false
local silent = text(math.max(1, math.floor((now - lease_end + lease_ms) / 1000)))
if ahead then
  redis.call('HINCRBY', task, 'spared', 1)
  redis.call('HINCRBY', task, 'attempts', -1)
  redis.call('HSET', task, 'noted', 1)
else
  end_busy_streak()
  is_dead = redis.call('HINCRBY', task, 'lost', 1) > max_lost
end
if is_dead or cancel then
  redis.call('HDEL', task, 'token')
  if not ahead then note_attempt(now, 'lost', lost_error(worker_id, silent)) end
  if cancel then
    end_task(now, 'running', 'cancelled', CANCELLED_WHILE_RUNNING)
    return { 'CANCELLED', worker_id, attempts }
  end
  end_task(now, 'running', 'dead', 'the worker was lost ' .. max_lost + 1 .. ' times while it ran the task, so the task is '
    .. 'assumed to be the cause and is not retried')
  return { 'DEAD', worker_id, attempts }
end
if lane then leave_key(lane) end
redis.call('HSET', task, 'state', 'queued', 'entry', queue_again(lane, task_id), 'lost_token', token, 'updated', text(now))
if not ahead then redis.call('HSET', task, 'silent', silent) end
redis.call('HDEL', task, 'token')
redis.call('ZREM', leases, member)
-- A task that no container has received has waited all the time.
if ahead and deadline then redis.call('ZADD', deadlines, deadline, member) end
count_move('running', 'queued')
ring_bell()
return { ahead and 'UNSTARTED' or 'QUEUED', worker_id, attempts }
