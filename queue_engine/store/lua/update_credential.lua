-- Change some fields of a credential. Other fields are not changed.
--
-- flags: durable
-- keys: credential
-- arguments: tenant text, fields map
-- replies:
--   OK
--   NOT_FOUND
if redis.call('HGET', credential, 'tenant') ~= tenant then return { 'NOT_FOUND' } end
if #fields > 0 then redis.call('HSET', credential, unpack(fields)) end
return { 'OK' }
