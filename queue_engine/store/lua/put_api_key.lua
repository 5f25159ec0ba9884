#!lua flags=allow-oom
-- Store a new API key, so that it can be listed and revoked from the moment on which it is valid. A known one stays as it is,
-- and a revoked one stays revoked.
-- KEYS 1 key 2 all keys 3 revoked keys 4 tenants
-- ARGV 1 hash of the key 2 tenant 3 name
-- Reply {'OK', tenant, name, when it was created, ms} as it is now stored | {'REVOKED'}
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then return { 'REVOKED' } end
if redis.call('HEXISTS', KEYS[1], 'tenant') == 0 then
  redis.call('HSET', KEYS[1], 'tenant', ARGV[2], 'name', ARGV[3], 'created', text(now_ms()))
end
local stored = redis.call('HMGET', KEYS[1], 'tenant', 'name', 'created')
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[4], stored[1])
return { 'OK', stored[1], stored[2] or '', stored[3] or '0' }
