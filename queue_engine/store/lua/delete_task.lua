-- Remove an ended task with all its data. A delivery of its result that has not ended is dropped.
--
-- flags: allow-oom, durable
-- keys of a task: task, body, result, history, attempts_log, created
-- replies:
--   OK
--   BUSY (the task has not ended)
--   GONE
local state, seq = unpack(redis.call('HMGET', task, 'state', 'seq'))
if not state then return { 'GONE' } end
if not TERMINAL[state] then return { 'BUSY' } end
local bytes = undo_end()
index_remove('all', created, seq)
redis.call('DEL', task, body, result)
forget_records(history, bytes)
forget_records(attempts_log, bytes)
correct_use()
return { 'OK' }
