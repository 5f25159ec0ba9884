#!lua
-- Change some fields of a credential; those that are not given stay.
-- KEYS 1 credential
-- ARGV 1 tenant, then field, value, …
-- Reply {'OK'} | {'NOT_FOUND'}
if redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[1] then return { 'NOT_FOUND' } end
if #ARGV > 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
return { 'OK' }
