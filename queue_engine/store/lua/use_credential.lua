#!lua
-- Note that an endpoint uses a credential, or is about to.
-- KEYS 1 credential 2 its users
-- ARGV 1 tenant 2 endpoint id 3 for how long a note counts by itself, ms: it is kept no longer
-- Reply {'OK'} | {'NOT_FOUND'}
if redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[1] then return { 'NOT_FOUND' } end
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - tonumber(ARGV[3])))
redis.call('ZADD', KEYS[2], text(now), ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return { 'OK' }
