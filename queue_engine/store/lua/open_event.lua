#!lua flags=allow-oom
-- Read the worker's status event that is to be sent next, and note who sends it.
-- KEYS 1 delivery 2 outbox 3 events 4 endpoint
-- ARGV 1 entry id 2 delivery process
-- Reply {'OK', attempts, created ms, event (JSON), sealed signing secret} | {'STALE'}
local event = redis.call('LINDEX', KEYS[3], 0)
if not event or redis.call('HGET', KEYS[1], 'entry') ~= ARGV[1] then
  drop(KEYS[2], 'delivery', ARGV[1])
  if not event then redis.call('DEL', KEYS[1]) end
  return { 'STALE' }
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
local attempts, created = unpack(redis.call('HMGET', KEYS[1], 'attempts', 'created'))
return { 'OK', attempts, created, event, redis.call('HGET', KEYS[4], 'signing') or '' }
