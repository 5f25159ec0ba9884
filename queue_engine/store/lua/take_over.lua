-- Claim entries of a queue that another agent has claimed and not started, because it has died. None while the queue is paused.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint
-- keys: stream
-- arguments: worker_id text, idle_ms integer (the time since the other agent's claim), cursor text, limit integer
-- replies:
--   OK: cursor text (from which the search continues), taken entries
if redis.call('HGET', endpoint, 'paused') == '1' then return { 'OK', '0-0', {} } end
local found = redis.call('XAUTOCLAIM', stream, 'agents', worker_id, idle_ms, cursor, 'COUNT', limit)
return { 'OK', found[1], found[2] }
