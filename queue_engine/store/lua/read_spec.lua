#!lua flags=no-writes,allow-oom
-- Read what is needed to end a task that this process does not run.
-- KEYS 1 task 2 body
-- ARGV none
-- Reply {spec, queue TTL in s or ''} | {'', ''} when there is none
local spec, ttl = unpack(redis.call('HMGET', KEYS[1], 'spec', 'ttl'))
if not spec then return { '', '' } end
return { redis.call('GETRANGE', KEYS[2], 0, tonumber(spec) - 1), ttl or '' }
