-- Record if all workers of an endpoint crash on start.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint
-- arguments: has_failed flag
-- replies:
--   OK
--   NOT_FOUND
if redis.call('EXISTS', endpoint) == 0 then return { 'NOT_FOUND' } end
redis.call('HSET', endpoint, 'failed', has_failed and '1' or '0')
return { 'OK' }
