-- Revoke an API key permanently.
--
-- flags: allow-oom, durable
-- keys: api_key, api_keys, revoked (all revoked and all limited API keys), tenant_keys
-- arguments: key_hash text
-- replies:
--   OK
redis.call('SADD', revoked, key_hash)
redis.call('DEL', api_key)
redis.call('SREM', api_keys, key_hash)
redis.call('ZREM', tenant_keys, key_hash)
return { 'OK' }
