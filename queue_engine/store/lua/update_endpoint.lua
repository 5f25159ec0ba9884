#!lua
-- Change an endpoint, unless it was changed since it was read.
-- KEYS 1 endpoint
-- ARGV 1 tenant 2 version that was read 3 '1' when its workers must be replaced, then field, value, …
-- Reply {'OK'} | {'CONFLICT'} changed in between | {'NOT_FOUND'}
local tenant, wanted, version = unpack(redis.call('HMGET', KEYS[1], 'tenant', 'wanted', 'version'))
if tenant ~= ARGV[1] or wanted == 'deleted' then return { 'NOT_FOUND' } end
if version ~= ARGV[2] then return { 'CONFLICT' } end
redis.call('HSET', KEYS[1], 'updated', text(now_ms()), unpack(ARGV, 4))
redis.call('HINCRBY', KEYS[1], 'version', 1)
if ARGV[3] == '1' then
  redis.call('HINCRBY', KEYS[1], 'revision', 1)
  redis.call('HDEL', KEYS[1], 'failed')
end
return { 'OK' }
