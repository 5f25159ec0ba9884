-- Revoke an API key permanently.
--
-- flags: allow-oom, durable
-- keys:
--   api_key, api_keys, revoked (revoked and limited API keys), ended (of the tenant), configured (first keys of processes),
--   tenant_keys
-- arguments: key_hash text
-- replies:
--   OK
redis.call('DEL', api_key)
redis.call('SREM', api_keys, key_hash)
redis.call('ZREM', tenant_keys, key_hash)
remember_end(key_hash, revoked, ended, configured)
return { 'OK' }
