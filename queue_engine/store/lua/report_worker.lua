#!lua flags=allow-oom
-- A worker's agent says how it is.
-- KEYS 1 worker 2 workers
-- ARGV 1 worker id 2 status 3 running tasks 4 address of the container 5 error, or ''
-- Reply {'OK'} | {'GONE'} no such worker: its agent must end
local before = redis.call('HGET', KEYS[1], 'status')
if not before then return { 'GONE' } end
local status = ARGV[2]
if before == 'STOPPING' and (status == 'INITIALIZING' or status == 'RUNNING') then status = before end
redis.call('HSET', KEYS[1], 'status', status, 'running', ARGV[3], 'address', ARGV[4], 'beat', text(now_ms()))
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[5]) end
redis.call('HSET', KEYS[2], ARGV[1], status)
return { 'OK' }
