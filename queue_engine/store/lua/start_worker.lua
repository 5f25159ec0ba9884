-- Record a start of a worker. Reports from agents of earlier starts are refused from then on.
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
-- The error of a worker before its first start only says that it waits for the start.
if run == 1 then redis.call('HDEL', worker, 'error') end
return { 'OK', run }
