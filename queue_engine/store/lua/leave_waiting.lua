-- Remove an endpoint without waiting tasks from the endpoints that may have some. Its figures are sampled from then on, because it has
-- had tasks.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, counts, waiting_endpoints, sampled_endpoints
-- replies:
--   OK
local queued, scheduled = unpack(redis.call('HMGET', counts, 'queued', 'scheduled'))
if (queued or 0) + (scheduled or 0) <= 0 and redis.call('SREM', waiting_endpoints, id_of_endpoint(endpoint)) == 1 then
  redis.call('ZADD', sampled_endpoints, text(now_ms()), id_of_endpoint(endpoint))
end
return { 'OK' }
