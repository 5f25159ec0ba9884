-- Remove a credential, unless a user of it was noted lately. The caller has looked before whether one that was noted earlier
-- still uses it.
--
-- flags: allow-oom, durable
-- keys: credential, users (of the credential), credentials (the tenant's)
-- arguments: tenant text, credential_id integer
-- replies:
--   OK
--   IN_USE
--   NOT_FOUND
if redis.call('HGET', credential, 'tenant') ~= tenant then return { 'NOT_FOUND' } end
if redis.call('ZCOUNT', users, '(' .. text(now_ms() - USE_GRACE_MS), '+inf') > 0 then return { 'IN_USE' } end
redis.call('DEL', credential, users)
redis.call('ZREM', credentials, credential_id)
return { 'OK' }
