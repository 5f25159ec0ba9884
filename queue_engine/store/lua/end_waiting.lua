#!lua flags=allow-oom
-- End a task of an endpoint that is being deleted, whether it waits or its worker has not given it back.
-- KEYS 1 task 2 input 3 result 4 leases 5 live 6 endpoint counts 7 partition counts 8 finished stream of FAILED
--      9 outbox 10 delivery 11 queue 12 retry queue 13 due 14 endpoint
-- ARGV 1 member 2 task id 3 error 4 delivery id 5 webhook's destination 6 slack of the expiry in ms
-- Reply {'OK'} | {'GONE'} it has ended or is not there
local state, entry = unpack(redis.call('HMGET', KEYS[1], 'state', 'entry'))
if not state or TERMINAL[state] then
  redis.call('ZREM', KEYS[5], ARGV[2])
  return { 'GONE' }
end
if entry then
  drop(KEYS[11], 'agents', entry)
  drop(KEYS[12], 'agents', entry)
end
redis.call('ZREM', KEYS[13], ARGV[1])
redis.call('HDEL', KEYS[1], 'token')
end_task(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[14],
  { now = now_ms(), from = state, member = ARGV[1], task_id = ARGV[2], state = 'failed', status = 'failed',
    result = ARGV[3], delivery_id = ARGV[4], destination = ARGV[5], slack = tonumber(ARGV[6]) })
return { 'OK' }
