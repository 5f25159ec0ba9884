#!lua flags=allow-oom
-- A controller changes a worker's status.
-- KEYS 1 worker 2 workers
-- ARGV 1 worker id 2 status 3 error, or ''
-- Reply {'OK'} | {'GONE'}
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'GONE' } end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'updated', text(now_ms()))
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[3]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return { 'OK' }
