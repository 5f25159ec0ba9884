-- Remove API keys that have expired from the indexes.
--
-- flags: allow-oom
-- keys:
--   api_keys, revoked (revoked and limited API keys), ended (of the tenant), configured (first keys of processes), tenant_keys
-- arguments: key_hashes list of text (of keys without a record; no key gets its record back)
-- replies:
--   OK
for _, key_hash in ipairs(key_hashes) do
  redis.call('SREM', api_keys, key_hash)
  redis.call('ZREM', tenant_keys, key_hash)
  -- Every key that can expire is in the set. A record that is missing for another reason does not revoke its key.
  if redis.call('SISMEMBER', revoked, key_hash) == 1 then remember_end(key_hash, revoked, ended, configured) end
end
return { 'OK' }
