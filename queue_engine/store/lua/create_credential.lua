-- Store a new credential.
--
-- flags: durable
-- keys: credential, credentials (the tenant's)
-- arguments: credential_id integer, max_credentials integer (of the tenant; 0 is no limit), fields map
-- replies:
--   OK: created_ms integer
--   EXISTS: created_ms integer (a repeated call, because each id is assigned once)
--   FULL (the tenant has its maximum number of credentials)
local created = redis.call('HGET', credential, 'created')
if created then return { 'EXISTS', created } end
if max_credentials > 0 and redis.call('ZCARD', credentials) >= max_credentials then return { 'FULL' } end
created = text(now_ms())
redis.call('HSET', credential, 'created', created, unpack(fields))
redis.call('ZADD', credentials, credential_id, credential_id)
return { 'OK', created }
