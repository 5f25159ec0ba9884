#!lua flags=allow-oom
-- Take the leadership when it is free, or renew one's own.
-- KEYS 1 leader
-- ARGV 1 controller id 2 lease in ms
-- Reply {'OK'} | {'HELD'} another controller has it
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return { 'HELD' } end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { 'OK' }
