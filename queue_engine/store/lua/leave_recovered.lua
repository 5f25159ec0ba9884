-- Remove a task from those whose delivery a recovery or an operation has made due, if the delivery is not due any longer.
--
-- flags: allow-oom
-- keys of a task: task, delivery, recovered
-- replies:
--   OK
--   DUE
local entry, trigger, operation = unpack(redis.call('HMGET', delivery, 'entry', 'trigger', 'operation'))
if entry and (trigger == 'recover' or operation) then return { 'DUE' } end
local _, task_id = names_of(task)
redis.call('SREM', recovered, task_id)
return { 'OK' }
