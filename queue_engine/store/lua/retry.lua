#!lua flags=allow-oom
-- Put a running task off: it waits and is tried again. One that is to be cancelled ends instead, and so does one whose last
-- attempt was used up by a busy streak.
-- KEYS 1 task 2 body 3 result 4 history 5 leases 6 live 7 endpoint counts 8 partition counts 9 finished stream of FAILED
--      10 outbox 11 delivery 12 endpoint 13 retry queue 14 due 15 deadlines
-- ARGV 1 member 2 token 3 wait in ms 4 task id 5 outcome of the attempt 6 why, shortened 7 error when it is to be cancelled
--      8 delivery id 9 webhook's destination or '' 10 slack of the expiry in ms
--      11 what it costs: `attempt`; `busy`: an attempt when the task's busy streak has lasted for the endpoint's maxBusySeconds,
--      else nothing; `nothing`: the worker has not served yet, and the task is queued again at once 12 error of a task whose
--      busy streak has used up its last attempt
-- Reply {'OK'} | {'CANCELLED'} | {'FAILED', created ms, started ms, now ms} no attempt is left | {'ALREADY'} | {'FENCED'}
--       {'GONE'}
local state, token, retried, deadline =
  unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'retry_token', 'deadline'))
if not state then return { 'GONE' } end
local now = now_ms()
if state ~= 'running' or token ~= ARGV[2] then
  if retried == ARGV[2] then return { 'ALREADY' } end
  if not readopt(KEYS[1], KEYS[13], KEYS[5], KEYS[7], KEYS[8], ARGV[1], ARGV[2], now) then return { 'FENCED' } end
end
local is_spent = ARGV[11] == 'attempt'
if is_spent then
  end_busy_streak(KEYS[1])
  note_attempt(KEYS[4], KEYS[1], now, ARGV[5], ARGV[6])
else
  is_spent = ARGV[11] == 'busy' and extend_busy_streak(KEYS[1], KEYS[12], now)
  note_try(KEYS[4], KEYS[1], now, ARGV[5], ARGV[6])
end
redis.call('HSET', KEYS[1], 'updated', text(now), 'retry_token', ARGV[2])
redis.call('HDEL', KEYS[1], 'token')
if ARGV[5] == 'connection_lost' then redis.call('HINCRBY', KEYS[1], 'resets', 1) end
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then
  end_task(KEYS, { now = now, from = 'running', member = ARGV[1], task_id = ARGV[4], state = 'cancelled', status = 'failed',
    result = ARGV[7], delivery_id = ARGV[8], destination = ARGV[9], slack = tonumber(ARGV[10]) })
  return { 'CANCELLED' }
end
if not is_spent then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
elseif ARGV[11] == 'busy' then
  local attempts, base, lost, most = unpack(redis.call('HMGET', KEYS[1], 'attempts', 'base', 'lost', 'max'))
  if attempts - (base or 0) - lost >= tonumber(most) then
    end_task(KEYS, { now = now, from = 'running', member = ARGV[1], task_id = ARGV[4], state = 'failed', status = 'failed',
      result = ARGV[12], delivery_id = ARGV[8], destination = ARGV[9], slack = tonumber(ARGV[10]) })
    local times = redis.call('HMGET', KEYS[1], 'created', 'started')
    return { 'FAILED', times[1], times[2], text(now) }
  end
end
local state_after = 'scheduled'
if ARGV[11] == 'nothing' then
  state_after = 'queued'
  redis.call('HSET', KEYS[1], 'entry', redis.call('XADD', KEYS[13], '*', 't', ARGV[4]))
else
  redis.call('ZADD', KEYS[14], text(now + tonumber(ARGV[3])), ARGV[1])
end
redis.call('HSET', KEYS[1], 'state', state_after)
redis.call('ZREM', KEYS[5], ARGV[1])
if deadline then redis.call('ZADD', KEYS[15], deadline, ARGV[1]) end
count_move(KEYS[7], KEYS[8], 'running', state_after)
return { 'OK' }
