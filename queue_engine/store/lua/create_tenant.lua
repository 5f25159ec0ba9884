-- Create a tenant, unless it exists.
--
-- flags: allow-oom, durable
-- keys: tenants, tenant
-- arguments: name text, call_id text
-- replies:
--   OK
--   EXISTS
if redis.call('SADD', tenants, name) == 1 then
  redis.call('HSET', tenant, 'created', text(now_ms()), 'call', call_id)
elseif redis.call('HGET', tenant, 'call') ~= call_id then
  return { 'EXISTS' }
end
return { 'OK' }
