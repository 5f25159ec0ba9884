-- Set a worker's status, as decided by the controller.
--
-- flags: allow-oom
-- keys of a worker: worker
-- arguments:
--   status text, reason text, error_text optional text,
--   outdated_error optional text (an error that is removed, unless another one was recorded since), restarts integer (to add)
-- replies:
--   OK
--   GONE
if redis.call('EXISTS', worker) == 0 then return { 'GONE' } end
if error_text then
  redis.call('HSET', worker, 'error', error_text)
elseif outdated_error and redis.call('HGET', worker, 'error') == outdated_error then
  redis.call('HDEL', worker, 'error')
end
redis.call('HINCRBY', worker, 'restarts', restarts)
redis.call('HSET', worker, 'running', 0)
change_status(status, reason)
return { 'OK' }
