#!lua flags=allow-oom
-- Put the delivery of a worker's status event off without an attempt: its receiver is not served now. An event that has
-- become too old meanwhile is given up, and the worker's next one is due.
-- KEYS 1 delivery 2 outbox 3 outbox parked 4 events 5 endpoint counts
-- ARGV 1 entry id 2 delivery id 3 wait in ms 4 most age in ms
-- Reply {'OK'} | {'GIVEN_UP'} | {'STALE'}
drop(KEYS[2], 'delivery', ARGV[1])
local entry, created = unpack(redis.call('HMGET', KEYS[1], 'entry', 'created'))
if entry ~= ARGV[1] then return { 'STALE' } end
local now = now_ms()
if now - tonumber(created) > tonumber(ARGV[4]) then
  next_event(KEYS[1], KEYS[2], KEYS[4], KEYS[5], ARGV[2], tonumber(ARGV[4]))
  return { 'GIVEN_UP' }
end
redis.call('HDEL', KEYS[1], 'entry', 'owner')
redis.call('ZADD', KEYS[3], text(now + tonumber(ARGV[3])), ARGV[2])
return { 'OK' }
