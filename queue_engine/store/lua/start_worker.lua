-- Record a start of a worker. Reports from agents of earlier starts, and their tokens, are refused from then on.
--
-- flags: allow-oom
-- keys of a worker: worker, worker_tokens
-- arguments: worker_id text, token_hash text (of the token for the agent of this start; empty if it needs none)
-- replies:
--   OK: run integer (the number of this start)
--   GONE
if redis.call('EXISTS', worker) == 0 then return { 'GONE' } end
local run = redis.call('HINCRBY', worker, 'run', 1)
redis.call('HSET', worker, 'started', text(now_ms()), 'running', 0)
redis.call('HDEL', worker, 'beat')
if token_hash == '' then
  redis.call('HDEL', worker_tokens, worker_id)
else
  redis.call('HSET', worker_tokens, worker_id, token_hash .. ' ' .. text(now_ms()))
end
-- The error of a worker before its first start only says that it waits for the start.
if run == 1 then redis.call('HDEL', worker, 'error') end
return { 'OK', run }
