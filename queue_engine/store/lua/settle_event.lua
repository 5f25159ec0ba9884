#!lua flags=allow-oom
-- Record what came of one attempt to send a worker's status event; when it is done with, the worker's next one is due.
-- KEYS 1 delivery 2 outbox 3 outbox due 4 events 5 endpoint counts
-- ARGV 1 entry id 2 delivery process 3 verdict: delivered | again | given_up 4 wait in ms (again) 5 delivery id
--      6 most age in ms of an event that is still sent
-- Reply {'OK', created ms, now ms} | {'FENCED'} another process has it, or it was settled before
local entry, owner, created = unpack(redis.call('HMGET', KEYS[1], 'entry', 'owner', 'created'))
if entry ~= ARGV[1] or owner ~= ARGV[2] then return { 'FENCED' } end
local now = now_ms()
drop(KEYS[2], 'delivery', entry)
redis.call('HDEL', KEYS[1], 'entry', 'owner')
if ARGV[3] == 'again' then
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
  redis.call('ZADD', KEYS[3], text(now + tonumber(ARGV[4])), ARGV[5])
  return { 'OK', created, text(now) }
end
next_event(KEYS[1], KEYS[2], KEYS[4], KEYS[5], ARGV[5], tonumber(ARGV[6]))
return { 'OK', created, text(now) }
