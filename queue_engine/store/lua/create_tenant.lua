-- Create a tenant with limits of its own, unless it exists.
--
-- flags: allow-oom, durable
-- keys: tenants, tenant
-- arguments: name text, call_id text, limits map
-- replies:
--   OK
--   EXISTS
if redis.call('SADD', tenants, name) == 1 then
  redis.call('HSET', tenant, 'created', text(now_ms()), 'call', call_id, unpack(limits))
elseif redis.call('HGET', tenant, 'call') ~= call_id then
  return { 'EXISTS' }
end
return { 'OK' }
