#!lua flags=allow-oom
-- Record what came of one delivery attempt.
-- KEYS 1 delivery 2 outbox 3 outbox due 4 task 5 body 6 result 7 attempts log 8 finished stream of SUCCESS
--      9 finished stream of DELIVERED 10 endpoint counts 11 history
-- ARGV 1 entry id 2 delivery process 3 verdict: delivered | again | given_up 4 wait in ms (again) 5 reason
--      6 delivery id 7 log record (JSON) 8 most log records 9 slack of the expiry in ms
-- Reply {'OK', created ms, now ms} | {'FENCED'} another process has it, or it was settled before
local entry, owner, created = unpack(redis.call('HMGET', KEYS[1], 'entry', 'owner', 'created'))
if entry ~= ARGV[1] or owner ~= ARGV[2] then return { 'FENCED' } end
local now = now_ms()
local verdict = ARGV[3]
drop(KEYS[2], 'delivery', entry)
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
local state = redis.call('HGET', KEYS[4], 'state')
local ttl = redis.call('PTTL', KEYS[4])
if state then
  redis.call('HINCRBY', KEYS[4], 'delivery_attempts', 1)
  redis.call('HSET', KEYS[4], 'updated', text(now))
  redis.call('HDEL', KEYS[4], 'delivery_parked')
  redis.call('RPUSH', KEYS[7], ARGV[7])
  redis.call('LTRIM', KEYS[7], -tonumber(ARGV[8]), -1)
end

if verdict == 'again' then
  local due = now + tonumber(ARGV[4])
  redis.call('HDEL', KEYS[1], 'entry', 'owner')
  redis.call('ZADD', KEYS[3], text(due), ARGV[6])
  if state then
    redis.call('HSET', KEYS[4], 'delivery', 'FAILED', 'next_delivery', text(due))
    ttl = math.max(ttl, tonumber(ARGV[4]) + tonumber(ARGV[9]))
    for _, index in ipairs({ 4, 5, 6, 11 }) do redis.call('PEXPIRE', KEYS[index], text(ttl)) end
  end
else
  redis.call('DEL', KEYS[1])
  if state then
    redis.call('HDEL', KEYS[4], 'next_delivery')
    redis.call('HSET', KEYS[4], 'delivery', verdict == 'delivered' and 'SUCCESS' or 'MAX_RETRIES_EXCEEDED')
    if verdict == 'delivered' then
      redis.call('HSET', KEYS[4], 'delivered', text(now))
    else
      redis.call('HSET', KEYS[4], 'delivery_error', ARGV[5])
    end
    if verdict == 'delivered' and state == 'succeeded' then
      local fin, seq = unpack(redis.call('HMGET', KEYS[4], 'fin', 'seq'))
      index_remove(KEYS[10], 'success', KEYS[8], fin)
      local task_id = string.match(ARGV[6], '[^:]+$')
      redis.call('HSET', KEYS[4], 'fin', index_add(KEYS[10], 'delivered', KEYS[9], now, 't', task_id, 'n', seq))
      redis.call('HINCRBY', KEYS[10], 'success', -1)
      redis.call('HINCRBY', KEYS[10], 'delivered', 1)
    end
  end
end
if state then redis.call('PEXPIRE', KEYS[7], text(math.max(ttl, 1))) end
return { 'OK', created, text(now) }
