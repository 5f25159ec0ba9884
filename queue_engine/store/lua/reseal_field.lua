#!lua flags=allow-oom
-- Put a text that was sealed anew in the place of the one that was read. The secret itself stays the same.
-- KEYS 1 hash
-- ARGV 1 field 2 text that was read 3 new text 4 '1' when the hash has a version by which its changes are fenced
-- Reply {'OK'} | {'STALE'} changed since it was read
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return { 'STALE' } end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('HINCRBY', KEYS[1], 'version', 1) end
return { 'OK' }
