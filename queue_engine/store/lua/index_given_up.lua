-- Correct the entry of a task in the index of deliveries that were given up.
--
-- flags: allow-oom
-- keys of a task: task, given_up
-- replies:
--   OK: changed integer (number of entries that were added or removed)
local status, updated = unpack(redis.call('HMGET', task, 'delivery', 'updated'))
local _, task_id = names_of(task)
if status ~= 'MAX_RETRIES_EXCEEDED' then return { 'OK', redis.call('ZREM', given_up, task_id) } end
if redis.call('ZSCORE', given_up, task_id) then return { 'OK', 0 } end
return { 'OK', index_given_up(updated) }
