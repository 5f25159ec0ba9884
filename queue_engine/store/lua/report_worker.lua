#!lua flags=allow-oom
-- A worker's agent says how it is.
-- KEYS 1 worker 2 workers 3 endpoint 4 events 5 delivery 6 outbox 7 endpoint counts
-- ARGV 1 worker id 2 status 3 running tasks 4 address of the container 5 reason
--   6 number of the start that the agent is of; 0 when no controller started it 7 error, or '' 8 delivery id
-- Reply {'OK', what the endpoint is wanted to be} | {'GONE'} no such worker or endpoint, or it was started again:
--   its agent must end
local wanted = redis.call('HGET', KEYS[3], 'wanted')
local before, managed, run = unpack(redis.call('HMGET', KEYS[1], 'status', 'managed', 'run'))
if not before or not wanted then return { 'GONE' } end
if ARGV[6] ~= '0' and ARGV[6] ~= run then return { 'GONE' } end
redis.call('HSET', KEYS[1], 'running', ARGV[3], 'address', ARGV[4], 'beat', text(now_ms()))
local status = ARGV[2]
-- What a controller decided stands: a worker that is being stopped is not running again, one that keeps crashing is
-- failed until it runs.
if before == 'STOPPING' and managed == '1' and status ~= 'STOPPED' then status = before end
if before == 'FAILED' and status == 'INITIALIZING' then status = before end
if status == 'RUNNING' then
  redis.call('HDEL', KEYS[1], 'error')
elseif ARGV[7] ~= '' and (status == 'INITIALIZING' or status == 'FAILED') then
  redis.call('HSET', KEYS[1], 'error', ARGV[7])
end
change_status(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7],
  { worker_id = ARGV[1], status = status, reason = ARGV[5], delivery_id = ARGV[8] })
return { 'OK', wanted }
