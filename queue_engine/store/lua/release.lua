#!lua flags=allow-oom
-- Hand a running task back to the queue at no cost to its budgets: its agent drains.
-- KEYS 1 task 2 leases 3 retry queue 4 endpoint counts 5 partition counts
-- ARGV 1 member 2 token 3 task id
-- Reply {'OK'} | {'ALREADY'} | {'FENCED'} | {'GONE'}
local state, token, retried = unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'retry_token'))
if not state then return { 'GONE' } end
if state ~= 'running' or token ~= ARGV[2] then
  return { retried == ARGV[2] and 'ALREADY' or 'FENCED' }
end
local entry = redis.call('XADD', KEYS[3], '*', 't', ARGV[3])
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', entry, 'updated', text(now_ms()), 'retry_token', ARGV[2])
redis.call('HDEL', KEYS[1], 'token')
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('ZREM', KEYS[2], ARGV[1])
count_move(KEYS[4], KEYS[5], 'running', 'queued')
return { 'OK' }
