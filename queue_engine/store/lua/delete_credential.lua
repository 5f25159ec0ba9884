-- Remove a credential, unless its use was noted within USE_GRACE_MS. The caller has checked that no stored endpoint uses it.
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
