#!lua flags=allow-oom
-- Put the delivery of a task's result off without an attempt: its receiver is not served now. The task stays at least as
-- long. A delivery that has become too old meanwhile is given up.
-- KEYS 1 delivery 2 outbox 3 outbox parked 4 task 5 body 6 result 7 attempts log 8 history
-- ARGV 1 entry id 2 delivery id 3 wait in ms 4 most age in ms 5 reason for giving up 6 slack of the expiry in ms
--      7 '1' when it waits because its receiver is parked, else ''
-- Reply {'OK'} | {'GIVEN_UP'} | {'STALE'}
drop(KEYS[2], 'delivery', ARGV[1])
local entry, created = unpack(redis.call('HMGET', KEYS[1], 'entry', 'created'))
if entry ~= ARGV[1] then return { 'STALE' } end
local now = now_ms()
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('DEL', KEYS[1])
  return { 'STALE' }
end
if now - tonumber(created) > tonumber(ARGV[4]) then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[4], 'next_delivery', 'delivery_parked')
  redis.call('HSET', KEYS[4], 'delivery', 'MAX_RETRIES_EXCEEDED', 'delivery_error', ARGV[5], 'updated', text(now))
  return { 'GIVEN_UP' }
end
redis.call('HDEL', KEYS[1], 'entry', 'owner')
local due = text(now + tonumber(ARGV[3]))
redis.call('ZADD', KEYS[3], due, ARGV[2])
if ARGV[7] == '1' then
  redis.call('HSET', KEYS[4], 'next_delivery', due, 'delivery_parked', '1')
else
  redis.call('HDEL', KEYS[4], 'delivery_parked')
end
local ttl = math.max(redis.call('PTTL', KEYS[4]), tonumber(ARGV[3]) + tonumber(ARGV[6]))
for index = 4, 8 do redis.call('PEXPIRE', KEYS[index], text(ttl)) end
return { 'OK' }
