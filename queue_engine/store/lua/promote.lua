-- Queue a scheduled task whose wait is over.
--
-- flags: allow-oom
-- keys of a task: task, due, retry_queue
-- replies:
--   QUEUED
--   OK (no change: the task is not due, or not scheduled)
local now = now_ms()
local member, task_id = names_of(task)
local due_at = tonumber(redis.call('ZSCORE', due, member) or '')
if due_at == nil or due_at > now then return { 'OK' } end
redis.call('ZREM', due, member)
if redis.call('HGET', task, 'state') ~= 'scheduled' then return { 'OK' } end
local entry = redis.call('XADD', retry_queue, '*', 't', task_id)
redis.call('HSET', task, 'state', 'queued', 'entry', entry, 'updated', text(now))
count_move('scheduled', 'queued')
ring_bell()
return { 'QUEUED' }
