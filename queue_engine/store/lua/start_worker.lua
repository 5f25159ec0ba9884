-- Begin a further start of a worker: what agents of earlier starts say does not count from here on.
--
-- flags: allow-oom
-- keys of a worker: worker
-- replies:
--   OK: run integer (the number of this start)
--   GONE
if redis.call('EXISTS', worker) == 0 then return { 'GONE' } end
local run = redis.call('HINCRBY', worker, 'run', 1)
redis.call('HSET', worker, 'started', text(now_ms()), 'running', 0)
redis.call('HDEL', worker, 'beat')
-- Before its first start a worker's only error is that it waits for it.
if run == 1 then redis.call('HDEL', worker, 'error') end
return { 'OK', run }
