#!lua
-- Note that an endpoint uses a credential, or is about to.
-- KEYS 1 credential 2 its users
-- ARGV 1 tenant 2 endpoint id
-- Reply {'OK'} | {'NOT_FOUND'}
if redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[1] then return { 'NOT_FOUND' } end
redis.call('ZADD', KEYS[2], text(now_ms()), ARGV[2])
return { 'OK' }
