-- Note that an endpoint uses a credential or is about to use it. The note expires after USE_GRACE_MS.
--
-- keys: credential, users (of the credential)
-- arguments: tenant text, endpoint_id text
-- replies:
--   OK
--   NOT_FOUND
if redis.call('HGET', credential, 'tenant') ~= tenant then return { 'NOT_FOUND' } end
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', users, '-inf', text(now - USE_GRACE_MS))
redis.call('ZADD', users, text(now), endpoint_id)
redis.call('PEXPIRE', users, USE_GRACE_MS)
return { 'OK' }
