#!lua flags=allow-oom
-- Record a worker that is about to start.
-- KEYS 1 worker 2 workers
-- ARGV 1 worker id 2 '1' when a controller manages it 3 restarts
-- Reply {'OK', now ms} | {'EXISTS'}
if redis.call('EXISTS', KEYS[1]) == 1 then return { 'EXISTS' } end
local now = text(now_ms())
redis.call('HSET', KEYS[1], 'status', 'INITIALIZING', 'created', now, 'managed', ARGV[2], 'restarts', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], 'INITIALIZING')
return { 'OK', now }
