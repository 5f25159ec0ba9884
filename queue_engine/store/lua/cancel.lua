#!lua flags=allow-oom
-- Cancel a task: one that waits ends at once; of one that runs its agent is told with the next heartbeat.
-- KEYS 1 task 2 body 3 result 4 history 5 leases 6 live 7 endpoint counts 8 partition counts 9 finished stream of FAILED
--      10 outbox 11 delivery 12 endpoint 13 queue 14 retry queue 15 due 16 deadlines
-- ARGV 1 member 2 task id 3 error of one that has not run yet 4 error of one that waits to run again 5 delivery id
--      6 webhook's destination or '' 7 slack of the expiry in ms
-- Reply {'CANCELLED'} it has ended by this call | {'REQUESTED'} it runs and is to be stopped | {'ENDED'} it had ended before
--       {'GONE'}
local state, attempts, base = unpack(redis.call('HMGET', KEYS[1], 'state', 'attempts', 'base'))
if not state then return { 'GONE' } end
if TERMINAL[state] then return { 'ENDED' } end
if state == 'running' then
  redis.call('HSET', KEYS[1], 'cancel', 1)
  return { 'REQUESTED' }
end
stop_waiting(KEYS[1], ARGV[2], KEYS[13], KEYS[14], KEYS[15], KEYS[16], ARGV[1])
redis.call('HSET', KEYS[1], 'cancel', 1)
end_task(KEYS, { now = now_ms(), from = state, member = ARGV[1], task_id = ARGV[2], state = 'cancelled', status = 'failed',
  result = tonumber(attempts) == tonumber(base or '0') and ARGV[3] or ARGV[4], delivery_id = ARGV[5], destination = ARGV[6],
  slack = tonumber(ARGV[7]) })
return { 'CANCELLED' }
