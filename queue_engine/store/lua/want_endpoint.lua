#!lua flags=allow-oom
-- Say what an endpoint is wanted to be. Deleting is final. May run at maxmemory: it is how memory is freed.
-- KEYS 1 endpoint
-- ARGV 1 tenant 2 running | stopped | deleted
-- Reply {'OK'} | {'NOT_FOUND'}
local tenant, wanted = unpack(redis.call('HMGET', KEYS[1], 'tenant', 'wanted'))
if tenant ~= ARGV[1] or wanted == 'deleted' then return { 'NOT_FOUND' } end
if wanted ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'wanted', ARGV[2], 'updated', text(now_ms()))
  redis.call('HINCRBY', KEYS[1], 'version', 1)
  redis.call('HDEL', KEYS[1], 'failed')
end
return { 'OK' }
