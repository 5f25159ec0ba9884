#!lua flags=allow-oom
-- Give up one's own leadership at once.
-- KEYS 1 leader
-- ARGV 1 controller id
-- Reply {'OK'} | {'HELD'} another controller has it, or nobody
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'HELD' } end
redis.call('DEL', KEYS[1])
return { 'OK' }
