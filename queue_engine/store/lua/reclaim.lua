#!lua flags=allow-oom
-- Take a task from an agent whose lease ran out: back to the queue, or the end when its workers are lost again and again.
-- KEYS 1 task 2 input 3 result 4 leases 5 live 6 endpoint counts 7 partition counts 8 finished stream of FAILED
--      9 outbox 10 delivery 11 retry queue 12 endpoint
-- ARGV 1 member 2 task id 3 most times a worker may be lost 4 error for the end 5 delivery id 6 webhook's destination
--      7 slack of the expiry in ms
-- Reply {'QUEUED'} | {'DEAD'} | {'OK'} nothing to do: the lease was renewed or the task ended
local now = now_ms()
local lease_end = tonumber(redis.call('ZSCORE', KEYS[4], ARGV[1]) or '')
if lease_end == nil or lease_end > now then return { 'OK' } end
local state, token = unpack(redis.call('HMGET', KEYS[1], 'state', 'token'))
if state ~= 'running' then
  redis.call('ZREM', KEYS[4], ARGV[1])
  return { 'OK' }
end
if redis.call('HINCRBY', KEYS[1], 'lost', 1) > tonumber(ARGV[3]) then
  redis.call('HDEL', KEYS[1], 'token')
  end_task(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[12],
    { now = now, from = 'running', member = ARGV[1], task_id = ARGV[2], state = 'dead', status = 'failed',
      result = ARGV[4], delivery_id = ARGV[5], destination = ARGV[6], slack = tonumber(ARGV[7]) })
  return { 'DEAD' }
end
local entry = redis.call('XADD', KEYS[11], '*', 't', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', entry, 'lost_token', token, 'updated', text(now))
redis.call('HDEL', KEYS[1], 'token')
redis.call('ZREM', KEYS[4], ARGV[1])
count_move(KEYS[6], KEYS[7], 'running', 'queued')
return { 'QUEUED' }
