#!lua flags=allow-oom
-- Put a delivery off without an attempt: its receiver is not served now.
-- KEYS 1 delivery 2 outbox 3 outbox parked
-- ARGV 1 entry id 2 delivery id 3 wait in ms
-- Reply {'OK'} | {'STALE'}
drop(KEYS[2], 'delivery', ARGV[1])
if redis.call('HGET', KEYS[1], 'entry') ~= ARGV[1] then return { 'STALE' } end
redis.call('HDEL', KEYS[1], 'entry', 'owner')
redis.call('ZADD', KEYS[3], text(now_ms() + tonumber(ARGV[3])), ARGV[2])
return { 'OK' }
