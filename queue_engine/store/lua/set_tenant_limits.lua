-- Set limits of a tenant. An empty value removes the tenant's own limit, so that the default applies.
--
-- flags: allow-oom, durable
-- keys: tenants, tenant
-- arguments: name text, limits map
-- replies:
--   OK
--   GONE (there is no such tenant)
if redis.call('SISMEMBER', tenants, name) == 0 then return { 'GONE' } end
for index = 1, #limits, 2 do
  if limits[index + 1] == '' then
    redis.call('HDEL', tenant, limits[index])
  else
    redis.call('HSET', tenant, limits[index], limits[index + 1])
  end
end
return { 'OK' }
