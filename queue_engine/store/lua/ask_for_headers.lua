-- Ask the engine to seal the headers of a task with a key of its endpoint. A request beyond the limit is dropped, because the agent
-- asks again when it claims the task again.
--
-- flags: allow-oom
-- keys: unsealed
-- arguments: name text (of the task, with its endpoint)
-- replies:
--   OK
if redis.call('SCARD', unsealed) < MAX_UNSEALED then redis.call('SADD', unsealed, name) end
redis.call('PEXPIRE', unsealed, UNSEALED_MS)
return { 'OK' }
