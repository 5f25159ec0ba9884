-- Put an entry back that an agent has read and cannot start: the task keeps waiting, behind no other.
--
-- label: unread
-- flags: allow-oom
-- keys of a task: task, retry_queue
-- keys: stream (that the entry came from)
-- arguments: entry_id text
-- replies:
--   OK
--   STALE
local state, entry = unpack(redis.call('HMGET', task, 'state', 'entry'))
-- In a repeated call the entry no longer exists. Its id alone is not sufficient, because both queues may use it.
local was_there = drop(stream, 'agents', entry_id)
if not was_there or state ~= 'queued' or entry ~= entry_id then return { 'STALE' } end
local _, task_id = names_of(task)
redis.call('HSET', task, 'entry', redis.call('XADD', retry_queue, '*', 't', task_id))
return { 'OK' }
