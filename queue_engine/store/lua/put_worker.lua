-- Record a worker that is about to start.
--
-- flags: allow-oom
-- keys of a worker: worker, endpoint
-- arguments: is_managed flag (a controller starts the worker), revision integer (of the endpoint)
-- replies:
--   OK
--   EXISTS
--   GONE (there is no such endpoint, or it is being deleted)
local desired = redis.call('HGET', endpoint, 'wanted')
if not desired or desired == 'deleted' then return { 'GONE' } end
if redis.call('EXISTS', worker) == 1 then return { 'EXISTS' } end
redis.call('HSET', worker, 'created', text(now_ms()), 'managed', is_managed and '1' or '0', 'revision', revision,
  'restarts', 0)
note_return()
change_status('INITIALIZING', 'created')
return { 'OK' }
