#!lua flags=allow-oom
-- Record a worker that is about to start.
-- KEYS 1 worker 2 workers 3 endpoint 4 events 5 delivery 6 outbox 7 endpoint counts
-- ARGV 1 worker id 2 '1' when a controller manages it 3 revision of the endpoint 4 delivery id
-- Reply {'OK'} | {'EXISTS'} | {'GONE'} there is no such endpoint, or it is being deleted
local wanted = redis.call('HGET', KEYS[3], 'wanted')
if not wanted or wanted == 'deleted' then return { 'GONE' } end
if redis.call('EXISTS', KEYS[1]) == 1 then return { 'EXISTS' } end
local now = text(now_ms())
redis.call('HSET', KEYS[1], 'created', now, 'managed', ARGV[2], 'revision', ARGV[3], 'restarts', 0)
change_status(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7],
  { worker_id = ARGV[1], status = 'INITIALIZING', reason = 'created', delivery_id = ARGV[4] })
return { 'OK' }
