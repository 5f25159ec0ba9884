-- Put a running task back into the queue at no cost to its budgets, because its agent drains or leaves the task to another. A
-- task whose cancellation was requested ends instead.
--
-- flags: allow-oom
-- keys of a task: task, leases, deadlines
-- arguments: token text, was_called flag (the container may have received the task, so the attempt is recorded in the history)
-- replies:
--   OK
--   CANCELLED
--   ALREADY
--   FENCED
--   GONE
local state, holder, retried, cancel, lane =
  unpack(redis.call('HMGET', task, 'state', 'token', 'retry_token', 'cancel', 'lane'))
if not state then return { 'GONE' } end
if state ~= 'running' or holder ~= token then return { retried == token and 'ALREADY' or 'FENCED' } end
local now = now_ms()
if was_called or cancel then
  end_busy_streak() -- the worker had accepted the task
  note_attempt(now, 'released')
else
  redis.call('HSET', task, 'noted', 1)
end
redis.call('HSET', task, 'updated', text(now), 'retry_token', token)
redis.call('HDEL', task, 'token')
if cancel then
  end_task(now, 'running', 'cancelled', CANCELLED_WHILE_RUNNING)
  return { 'CANCELLED' }
end
local member, task_id = names_of(task)
if lane then leave_key(lane) end
redis.call('HSET', task, 'state', 'queued', 'entry', queue_again(lane, task_id))
redis.call('HINCRBY', task, 'attempts', -1)
redis.call('ZREM', leases, member)
-- A task that no container has received has waited all the time.
local deadline = not was_called and redis.call('HGET', task, 'deadline')
if deadline then redis.call('ZADD', deadlines, deadline, member) end
count_move('running', 'queued')
ring_bell()
return { 'OK' }
