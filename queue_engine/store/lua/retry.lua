#!lua flags=allow-oom
-- Put a running task off: it waits and is tried again.
-- KEYS 1 task 2 leases 3 due 4 endpoint counts 5 partition counts 6 retry queue
-- ARGV 1 member 2 token 3 wait in ms
-- Reply {'OK'} | {'ALREADY'} | {'FENCED'} | {'GONE'}
local state, token, retried = unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'retry_token'))
if not state then return { 'GONE' } end
local now = now_ms()
if state ~= 'running' or token ~= ARGV[2] then
  if retried == ARGV[2] then return { 'ALREADY' } end
  if not readopt(KEYS[1], KEYS[6], KEYS[2], KEYS[4], KEYS[5], ARGV[1], ARGV[2], now) then return { 'FENCED' } end
end
redis.call('HSET', KEYS[1], 'state', 'scheduled', 'updated', text(now), 'retry_token', ARGV[2])
redis.call('HDEL', KEYS[1], 'token')
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], text(now + tonumber(ARGV[3])), ARGV[1])
count_move(KEYS[4], KEYS[5], 'running', 'scheduled')
return { 'OK' }
