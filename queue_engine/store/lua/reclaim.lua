#!lua flags=allow-oom
-- Take a task from an agent whose lease ran out: back to the queue, or the end when its workers are lost again and again, or
-- when it is to be cancelled.
-- KEYS 1 task 2 body 3 result 4 history 5 leases 6 live 7 endpoint counts 8 partition counts 9 finished stream of FAILED
--      10 outbox 11 delivery 12 endpoint 13 retry queue
-- ARGV 1 member 2 task id 3 most times a worker may be lost 4 error for the end 5 error when it is to be cancelled
--      6 delivery id 7 webhook's destination or '' 8 slack of the expiry in ms
-- Reply {'QUEUED' | 'DEAD' | 'CANCELLED', worker, attempts} | {'OK'} nothing to do: the lease was renewed or the task ended
local now = now_ms()
local lease_end = tonumber(redis.call('ZSCORE', KEYS[5], ARGV[1]) or '')
if lease_end == nil or lease_end > now then return { 'OK' } end
local state, token, cancel, worker, attempts =
  unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'cancel', 'worker', 'attempts'))
if state ~= 'running' then
  redis.call('ZREM', KEYS[5], ARGV[1])
  return { 'OK' }
end
end_busy_streak(KEYS[1])
local is_dead = redis.call('HINCRBY', KEYS[1], 'lost', 1) > tonumber(ARGV[3])
if is_dead or cancel then
  redis.call('HDEL', KEYS[1], 'token')
  note_attempt(KEYS[4], KEYS[1], now, 'lost')
  end_task(KEYS, { now = now, from = 'running', member = ARGV[1], task_id = ARGV[2],
    state = cancel and 'cancelled' or 'dead', status = 'failed', result = cancel and ARGV[5] or ARGV[4],
    delivery_id = ARGV[6], destination = ARGV[7], slack = tonumber(ARGV[8]) })
  return { cancel and 'CANCELLED' or 'DEAD', worker or '', attempts or '0' }
end
local entry = redis.call('XADD', KEYS[13], '*', 't', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', entry, 'lost_token', token, 'updated', text(now))
redis.call('HDEL', KEYS[1], 'token')
redis.call('ZREM', KEYS[5], ARGV[1])
count_move(KEYS[7], KEYS[8], 'running', 'queued')
return { 'QUEUED', worker or '', attempts or '0' }
