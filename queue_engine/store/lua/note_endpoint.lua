-- Note in a tenant's indexes that the tenant has an endpoint, or is about to store it. Refused when the tenant has as many as the
-- limit, unless the endpoint is noted already.
--
-- flags: durable
-- keys: tenant_endpoints, tenant_names
-- arguments: endpoint_id integer, name text, limit integer (0 for none)
-- replies:
--   OK
--   FULL
local id = text(endpoint_id)
local is_full = limit > 0 and redis.call('ZCARD', tenant_endpoints) >= limit
if is_full and not redis.call('ZSCORE', tenant_endpoints, id) then return { 'FULL' } end
redis.call('ZADD', tenant_endpoints, id, id)
redis.call('ZADD', tenant_names, 0, name .. ' ' .. id)
return { 'OK' }
