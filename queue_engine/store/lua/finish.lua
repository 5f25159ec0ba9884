#!lua flags=allow-oom
-- End a task: result, state, indexes, counts and the webhook's outbox entry, in one step and behind the fence.
-- KEYS 1 task 2 input 3 result 4 leases 5 live 6 endpoint counts 7 partition counts 8 finished stream of the status
--      9 outbox 10 delivery 11 retry queue 12 endpoint
-- ARGV 1 member 2 token 3 task id 4 terminal state 5 status, lower case: success | failed 6 output or error
--      7 delivery id 8 webhook's destination or '' 9 slack of the expiry in ms
-- Reply {'OK', created ms, started ms, now ms} | {'ALREADY'} this attempt ended the task before
--       {'FENCED'} another attempt has the task | {'GONE'}
local state, token = unpack(redis.call('HMGET', KEYS[1], 'state', 'token'))
if not state then return { 'GONE' } end
local now = now_ms()
if state ~= 'running' or token ~= ARGV[2] then
  if TERMINAL[state] and token == ARGV[2] then return { 'ALREADY' } end
  if not readopt(KEYS[1], KEYS[11], KEYS[4], KEYS[6], KEYS[7], ARGV[1], ARGV[2], now) then return { 'FENCED' } end
end

end_task(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[12],
  { now = now, from = 'running', member = ARGV[1], task_id = ARGV[3], state = ARGV[4], status = ARGV[5],
    result = ARGV[6], delivery_id = ARGV[7], destination = ARGV[8], slack = tonumber(ARGV[9]) })
local times = redis.call('HMGET', KEYS[1], 'created', 'started')
return { 'OK', times[1], times[2], text(now) }
