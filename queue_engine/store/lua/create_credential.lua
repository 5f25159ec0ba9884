-- Store a new credential.
--
-- flags: durable
-- keys: credential, credentials (the tenant's)
-- arguments: credential_id integer, fields map
-- replies:
--   OK: created_ms integer
--   EXISTS: created_ms integer (a repeated call, because each id is assigned once)
local created = redis.call('HGET', credential, 'created')
if created then return { 'EXISTS', created } end
created = text(now_ms())
redis.call('HSET', credential, 'created', created, unpack(fields))
redis.call('ZADD', credentials, credential_id, credential_id)
return { 'OK', created }
