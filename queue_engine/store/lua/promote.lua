-- Queue a scheduled task whose wait is over. Before its first run it waits with the new tasks, and the time limit of its waiting
-- counts from now.
--
-- flags: allow-oom
-- keys of a task: task, due, deadlines
-- replies:
--   QUEUED
--   OK (no change: the task is not due, or not scheduled)
local now = now_ms()
local member, task_id = names_of(task)
local due_at = tonumber(redis.call('ZSCORE', due, member) or '')
if due_at == nil or due_at > now then return { 'OK' } end
redis.call('ZREM', due, member)
local state, started, ttl, lane = unpack(redis.call('HMGET', task, 'state', 'started', 'ttl', 'lane'))
if state ~= 'scheduled' then return { 'OK' } end
local entry = nil
if started then
  entry = queue_again(lane, task_id)
else
  entry = queue_as_new(lane, task_id)
  if ttl then
    local deadline = text(now + math.ceil(tonumber(ttl) * 1000))
    redis.call('HSET', task, 'deadline', deadline)
    redis.call('ZADD', deadlines, deadline, member)
  end
end
redis.call('HSET', task, 'state', 'queued', 'entry', entry, 'updated', text(now))
count_move('scheduled', 'queued')
ring_bell()
return { 'QUEUED' }
