-- Remove an endpoint without waiting tasks from the endpoints that may have some.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, counts, waiting_endpoints
-- replies:
--   OK
local queued, scheduled = unpack(redis.call('HMGET', counts, 'queued', 'scheduled'))
if (queued or 0) + (scheduled or 0) <= 0 then redis.call('SREM', waiting_endpoints, id_of_endpoint(endpoint)) end
return { 'OK' }
