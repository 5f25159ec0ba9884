-- Store the first API key of a process in one step, so that every valid key can be listed and revoked. A known key is not
-- changed, and a revoked key stays revoked.
--
-- flags: allow-oom, durable
-- keys:
--   api_key, api_keys, revoked (revoked and limited API keys), configured (all keys that were the first key of a process),
--   tenants, tenant_keys
-- arguments: key_hash text, tenant text, name text
-- replies:
--   OK: tenant text, name text, created_ms integer (as stored)
--   REVOKED
redis.call('SADD', configured, key_hash)
if redis.call('SISMEMBER', revoked, key_hash) == 1 then return { 'REVOKED' } end
if redis.call('HEXISTS', api_key, 'tenant') == 0 then
  redis.call('HSET', api_key, 'tenant', tenant, 'name', name, 'created', text(now_ms()))
end
local stored = redis.call('HMGET', api_key, 'tenant', 'name', 'created')
redis.call('SADD', api_keys, key_hash)
redis.call('SADD', tenants, stored[1])
if stored[1] == tenant then redis.call('ZADD', tenant_keys, stored[3] or '0', key_hash) end
return { 'OK', stored[1], stored[2] or '', stored[3] or '0' }
