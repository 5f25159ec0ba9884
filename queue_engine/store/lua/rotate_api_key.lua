-- Replace an API key by a new one with the same rights and the same end. The old key stays valid for the overlap, and is never
-- made valid again. It is stored as a limited key, because it has an end now: see create_api_key.lua.
--
-- flags: allow-oom, durable
-- keys: api_key (old), new_key, api_keys, revoked, tenant_keys, makers list (the key of the request; none on the command line)
-- arguments:
--   key_hash text (of the old key), new_hash text, tenant text, origin text (for a key that is rotated for the first time),
--   overlap_ms integer, max_keys integer (of the tenant), maker_role text, maker_endpoints text
-- replies:
--   OK
--   ROTATED (the old key has been rotated before)
--   FULL (the tenant has its maximum number of keys)
--   GONE (the tenant has no such key)
--   REFUSED (the key of the request has ended since the request was admitted)
if redis.call('EXISTS', new_key) == 1 then return { 'OK' } end
for _, maker in ipairs(makers) do
  if not is_still_valid(maker, tenant, maker_role, maker_endpoints) then return { 'REFUSED' } end
end
local owner, unlimited_owner, replaced, expires, first =
  unpack(redis.call('HMGET', api_key, 'owner', 'tenant', 'replaced', 'expires', 'origin'))
if (owner or unlimited_owner) ~= tenant then return { 'GONE' } end
if replaced then return { 'ROTATED' } end
if redis.call('ZCARD', tenant_keys) >= max_keys then return { 'FULL' } end
local now = now_ms()
redis.call('HSET', new_key, 'origin', first or origin, unpack(redis.call('HGETALL', api_key)))
redis.call('HSET', new_key, 'created', text(now))
redis.call('HDEL', new_key, 'used')
if expires then redis.call('PEXPIREAT', new_key, expires) end
if owner then redis.call('SADD', revoked, new_hash) end
redis.call('SADD', api_keys, new_hash)
redis.call('ZADD', tenant_keys, text(now), new_hash)

local last = math.min(tonumber(expires or math.huge), now + overlap_ms)
redis.call('SADD', revoked, key_hash)
redis.call('HDEL', api_key, 'tenant')
redis.call('HSET', api_key, 'owner', tenant, 'replaced', 1, 'expires', text(last))
redis.call('PEXPIREAT', api_key, text(last))
return { 'OK' }
