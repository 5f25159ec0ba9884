#!lua flags=allow-oom
-- End a task that has waited until its deadline. One that runs is left alone.
-- KEYS 1 task 2 body 3 result 4 history 5 leases 6 live 7 endpoint counts 8 partition counts 9 finished stream of FAILED
--      10 outbox 11 delivery 12 endpoint 13 queue 14 retry queue 15 due 16 deadlines
-- ARGV 1 member 2 task id 3 error 4 delivery id 5 webhook's destination or '' 6 slack of the expiry in ms
-- Reply {'EXPIRED'} | {'OK'} nothing to do: not at its deadline, or not waiting
local now = now_ms()
local deadline = tonumber(redis.call('ZSCORE', KEYS[16], ARGV[1]) or '')
if deadline == nil or deadline > now then return { 'OK' } end
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'scheduled' then
  redis.call('ZREM', KEYS[16], ARGV[1])
  return { 'OK' }
end
stop_waiting(KEYS[1], ARGV[2], KEYS[13], KEYS[14], KEYS[15], KEYS[16], ARGV[1])
end_task(KEYS, { now = now, from = state, member = ARGV[1], task_id = ARGV[2], state = 'expired', status = 'failed',
  result = ARGV[3], delivery_id = ARGV[4], destination = ARGV[5], slack = tonumber(ARGV[6]) })
return { 'EXPIRED' }
