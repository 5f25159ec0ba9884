-- Record what a worker's agent says of it.
--
-- flags: allow-oom
-- keys of a worker: worker, endpoint
-- arguments:
--   reported text (its status), running_tasks integer, address text (of the container), reason text,
--   run integer (the number of the start that the agent is of; 0 when no controller started it), error_text optional text
-- replies:
--   OK: wanted text (the desired state of the endpoint)
--   GONE (no such worker or endpoint, or it was started again: its agent must end)
local wanted = redis.call('HGET', endpoint, 'wanted')
local before, managed, latest_run = unpack(redis.call('HMGET', worker, 'status', 'managed', 'run'))
if not before or not wanted then return { 'GONE' } end
if run ~= 0 and run ~= tonumber(latest_run or '') then return { 'GONE' } end
redis.call('HSET', worker, 'running', running_tasks, 'address', address, 'beat', text(now_ms()))
local status = reported
-- What a controller decided stands: a worker that is being stopped is not running again, one that keeps crashing is
-- failed until it runs.
if before == 'STOPPING' and managed == '1' and status ~= 'STOPPED' then status = before end
if before == 'FAILED' and status == 'INITIALIZING' then status = before end
if status == 'RUNNING' then
  redis.call('HDEL', worker, 'error')
elseif error_text and (status == 'INITIALIZING' or status == 'FAILED') then
  redis.call('HSET', worker, 'error', error_text)
end
change_status(status, reason)
return { 'OK', wanted }
