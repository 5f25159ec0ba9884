#!lua flags=allow-oom
-- Read all that one delivery attempt needs, and note who makes it.
-- KEYS 1 delivery 2 outbox 3 task 4 body 5 result 6 endpoint
-- ARGV 1 entry id 2 delivery process 3 most bytes of the output that are sent
-- Reply {'OK', attempts, created ms, task's fields and values, spec, output or error, '1' when the output is too large,
--        sealed signing secret} | {'STALE'} the delivery is not due by this entry (a second delivery of it, or it has ended)
local entry = redis.call('HGET', KEYS[1], 'entry')
local fields = redis.call('HGETALL', KEYS[3])
if entry ~= ARGV[1] or #fields == 0 then
  drop(KEYS[2], 'delivery', ARGV[1])
  if #fields == 0 then redis.call('DEL', KEYS[1]) end
  return { 'STALE' }
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
local attempts, created = unpack(redis.call('HMGET', KEYS[1], 'attempts', 'created'))
local spec = redis.call('GETRANGE', KEYS[4], 0, tonumber(redis.call('HGET', KEYS[3], 'spec')) - 1)
local most, truncated = tonumber(ARGV[3]), ''
local result = read_result(KEYS[3], KEYS[4], KEYS[5], most + 1)
if #result > most then result, truncated = '', '1' end
return { 'OK', attempts, created, fields, spec, result, truncated, redis.call('HGET', KEYS[6], 'signing') or '' }
