-- Note in a tenant's index that the tenant has an endpoint, or is about to store it. Refused when the tenant has as many as the
-- limit, unless the endpoint is noted already.
--
-- flags: durable
-- keys: tenant_endpoints
-- arguments: endpoint_id integer, limit integer (0 for none)
-- replies:
--   OK
--   FULL
local id = text(endpoint_id)
local is_full = limit > 0 and redis.call('ZCARD', tenant_endpoints) >= limit
if is_full and not redis.call('ZSCORE', tenant_endpoints, id) then return { 'FULL' } end
redis.call('ZADD', tenant_endpoints, id, id)
return { 'OK' }
