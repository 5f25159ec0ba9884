#!lua
-- Store a new credential.
-- KEYS 1 credential 2 the tenant's credentials
-- ARGV 1 credential id, then field, value, …
-- Reply {'OK', now ms} | {'EXISTS', when it was created, ms} a repeat: ids are given out once
local created = redis.call('HGET', KEYS[1], 'created')
if created then return { 'EXISTS', created } end
created = text(now_ms())
redis.call('HSET', KEYS[1], 'created', created, unpack(ARGV, 2))
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[1])
return { 'OK', created }
