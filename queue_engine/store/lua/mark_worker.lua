#!lua flags=allow-oom
-- A controller changes a worker's status.
-- KEYS 1 worker 2 workers 3 endpoint 4 events 5 delivery 6 outbox 7 endpoint counts
-- ARGV 1 worker id 2 status 3 reason 4 error, or '' 5 restarts to add 6 delivery id
-- Reply {'OK'} | {'GONE'}
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'GONE' } end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[4]) end
redis.call('HINCRBY', KEYS[1], 'restarts', ARGV[5])
redis.call('HSET', KEYS[1], 'running', 0)
change_status(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7],
  { worker_id = ARGV[1], status = ARGV[2], reason = ARGV[3], delivery_id = ARGV[6] })
return { 'OK' }
