#!lua flags=allow-oom
-- End a task: result, state, indexes, counts and the webhook's outbox entry, in one step and behind the fence.
-- KEYS 1 task 2 body 3 result 4 history 5 leases 6 live 7 endpoint counts 8 partition counts 9 finished stream of the status
--      10 outbox 11 delivery 12 endpoint 13 retry queue
-- ARGV 1 member 2 token 3 task id 4 terminal state 5 status, lower case: success | failed 6 output or error
--      7 delivery id 8 webhook's destination or '' 9 slack of the expiry in ms
-- Reply {'OK', created ms, started ms, now ms} | {'ALREADY'} this attempt ended the task before
--       {'FENCED'} another attempt has the task | {'GONE'}
local state, token = unpack(redis.call('HMGET', KEYS[1], 'state', 'token'))
if not state then return { 'GONE' } end
local now = now_ms()
if state ~= 'running' or token ~= ARGV[2] then
  if TERMINAL[state] and token == ARGV[2] then return { 'ALREADY' } end
  if not readopt(KEYS[1], KEYS[13], KEYS[5], KEYS[7], KEYS[8], ARGV[1], ARGV[2], now) then return { 'FENCED' } end
end

end_task(KEYS, { now = now, from = 'running', member = ARGV[1], task_id = ARGV[3], state = ARGV[4], status = ARGV[5],
  result = ARGV[6], delivery_id = ARGV[7], destination = ARGV[8], slack = tonumber(ARGV[9]) })
local times = redis.call('HMGET', KEYS[1], 'created', 'started')
return { 'OK', times[1], times[2], text(now) }
