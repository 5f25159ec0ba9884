#!lua flags=allow-oom
-- Begin a further start of a worker: what agents of earlier starts say does not count from here on.
-- KEYS 1 worker
-- ARGV none
-- Reply {'OK', number of this start} | {'GONE'}
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'GONE' } end
local run = redis.call('HINCRBY', KEYS[1], 'run', 1)
redis.call('HSET', KEYS[1], 'started', text(now_ms()), 'running', 0)
redis.call('HDEL', KEYS[1], 'beat')
-- Before its first start a worker's only error is that it waits for it.
if run == 1 then redis.call('HDEL', KEYS[1], 'error') end
return { 'OK', run }
