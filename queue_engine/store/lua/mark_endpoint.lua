#!lua flags=allow-oom
-- Note whether all workers of an endpoint crash on start or are not ready in time.
-- KEYS 1 endpoint
-- ARGV 1 '1' or '0'
-- Reply {'OK'} | {'NOT_FOUND'}
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'NOT_FOUND' } end
redis.call('HSET', KEYS[1], 'failed', ARGV[1])
return { 'OK' }
