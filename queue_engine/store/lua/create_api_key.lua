-- Store a new API key. A limited key has its tenant in the field `owner`, because processes of older versions do not know
-- limits: they look for the field `tenant`, do not find it, and refuse the key. They also refuse to make the key valid in full,
-- because its hash is in the set of revoked keys.
--
-- flags: allow-oom, durable
-- keys:
--   api_key, api_keys, revoked (hashes that are never stored as an unlimited key), tenants, tenant_keys,
--   makers list (the key of the request; none on the command line)
-- arguments:
--   key_hash text, tenant text (empty for an operator's key), is_limited flag (by role, endpoints or expiry),
--   expires_ms optional integer, max_keys integer (of the tenant), maker_role text, maker_endpoints text, fields map
-- replies:
--   OK: created_ms integer
--   PAST (the key would have expired already)
--   FULL (the tenant has its maximum number of keys)
--   REFUSED (the key of the request has ended since the request was admitted)
local before = redis.call('HGET', api_key, 'created')
if before then return { 'OK', before } end
for _, maker in ipairs(makers) do
  if not is_still_valid(maker, tenant, maker_role, maker_endpoints) then return { 'REFUSED' } end
end
local now = now_ms()
if expires_ms and expires_ms <= now then return { 'PAST' } end
if redis.call('ZCARD', tenant_keys) >= max_keys then return { 'FULL' } end
redis.call('HSET', api_key, is_limited and 'owner' or 'tenant', tenant, 'created', text(now), unpack(fields))
if is_limited then redis.call('SADD', revoked, key_hash) end
if expires_ms then
  redis.call('HSET', api_key, 'expires', text(expires_ms))
  redis.call('PEXPIREAT', api_key, text(expires_ms))
end
redis.call('SADD', api_keys, key_hash)
redis.call('ZADD', tenant_keys, text(now), key_hash)
if tenant ~= '' then redis.call('SADD', tenants, tenant) end
return { 'OK', text(now) }
