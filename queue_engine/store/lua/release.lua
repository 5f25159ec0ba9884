#!lua flags=allow-oom
-- Hand a running task back to the queue at no cost to its budgets: its agent drains, or leaves it to another. One that is to be
-- cancelled ends instead.
-- KEYS 1 task 2 body 3 result 4 history 5 leases 6 live 7 endpoint counts 8 partition counts 9 finished stream of FAILED
--      10 outbox 11 delivery 12 endpoint 13 retry queue
-- ARGV 1 member 2 token 3 task id 4 error when it is to be cancelled 5 delivery id 6 webhook's destination or ''
--      7 slack of the expiry in ms 8 whether the container may have got it, 1 or 0: if not, the history does not tell of it
-- Reply {'OK'} | {'CANCELLED'} | {'ALREADY'} | {'FENCED'} | {'GONE'}
local state, token, retried, cancel = unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'retry_token', 'cancel'))
if not state then return { 'GONE' } end
if state ~= 'running' or token ~= ARGV[2] then
  return { retried == ARGV[2] and 'ALREADY' or 'FENCED' }
end
local now = now_ms()
if ARGV[8] == '1' or cancel then
  end_busy_streak(KEYS[1]) -- its worker had taken it
  note_attempt(KEYS[4], KEYS[1], now, 'released')
else
  redis.call('HSET', KEYS[1], 'noted', 1)
end
redis.call('HSET', KEYS[1], 'updated', text(now), 'retry_token', ARGV[2])
redis.call('HDEL', KEYS[1], 'token')
if cancel then
  end_task(KEYS, { now = now, from = 'running', member = ARGV[1], task_id = ARGV[3], state = 'cancelled', status = 'failed',
    result = ARGV[4], delivery_id = ARGV[5], destination = ARGV[6], slack = tonumber(ARGV[7]) })
  return { 'CANCELLED' }
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', redis.call('XADD', KEYS[13], '*', 't', ARGV[3]))
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('ZREM', KEYS[5], ARGV[1])
count_move(KEYS[7], KEYS[8], 'running', 'queued')
return { 'OK' }
