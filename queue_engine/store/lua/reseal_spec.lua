#!lua flags=allow-oom
-- Put a task's spec that was sealed anew in the place of the one that was read. What is behind it stays.
-- KEYS 1 task 2 body
-- ARGV 1 spec that was read 2 new spec
-- Reply {'OK'} | {'STALE'} changed since it was read, or gone
local length, place = unpack(redis.call('HMGET', KEYS[1], 'spec', 'result_at'))
if length ~= text(#ARGV[1]) or redis.call('GETRANGE', KEYS[2], 0, #ARGV[1] - 1) ~= ARGV[1] then return { 'STALE' } end
redis.call('SET', KEYS[2], ARGV[2] .. redis.call('GETRANGE', KEYS[2], #ARGV[1], -1), 'KEEPTTL')
redis.call('HSET', KEYS[1], 'spec', #ARGV[2])
if place then redis.call('HSET', KEYS[1], 'result_at', place + #ARGV[2] - #ARGV[1]) end
return { 'OK' }
