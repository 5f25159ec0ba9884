#!lua
-- Queue an ended task for a further attempt, with fresh budgets. Its result goes, and the delivery of that with it. Has no
-- allow-oom: it is new work.
-- KEYS 1 task 2 body 3 result 4 history 5 attempts log 6 endpoint counts 7 finished stream of SUCCESS 8 of DELIVERED
--      9 of FAILED 10 outbox 11 outbox due 12 outbox parked 13 delivery 14 endpoint 15 partition counts 16 live 17 queue
-- ARGV 1 task id 2 id of this call 3 delivery id
-- Reply {'OK'} | {'ALREADY'} by the same call before | {'BUSY'} it has not ended | {'CLOSED'} stopped or failed
--       {'FULL'} | {'GONE'}
local state, call, attempts, started, noted, seq, place =
  unpack(redis.call('HMGET', KEYS[1], 'state', 'call', 'attempts', 'started', 'noted', 'seq', 'result_at'))
if not state then return { 'GONE' } end
if call == ARGV[2] then return { 'ALREADY' } end
if not TERMINAL[state] then return { 'BUSY' } end
local wanted, failed, max_queued = unpack(redis.call('HMGET', KEYS[14], 'wanted', 'failed', 'max_queued'))
if wanted == 'deleted' then return { 'GONE' } end
if wanted ~= 'running' or failed == '1' then return { 'CLOSED' } end
local waiting = redis.call('HMGET', KEYS[6], 'queued', 'scheduled')
if (tonumber(waiting[1]) or 0) + (tonumber(waiting[2]) or 0) >= tonumber(max_queued) then return { 'FULL' } end

if started and not noted then
  local why = nil
  if state ~= 'succeeded' then why = read_result(KEYS[1], KEYS[2], KEYS[3], MOST_WHY) end
  note_attempt(KEYS[4], KEYS[1], redis.call('HGET', KEYS[1], 'finished'), OUTCOME[state], why)
end
undo_end(KEYS, ARGV[3])
if place then
  redis.call('SET', KEYS[2], redis.call('GETRANGE', KEYS[2], 0, place - 1))
else
  redis.call('DEL', KEYS[3])
end
for _, index in ipairs({ 1, 2, 4, 5 }) do redis.call('PERSIST', KEYS[index]) end
-- The deadline goes too: it counted from the first submission, and who runs a task again wants it to run.
redis.call('HDEL', KEYS[1], 'deadline', 'ttl', 'finished', 'fin', 'result_at', 'token', 'retry_token', 'cancel', 'resets',
  'busy_since', 'busy_tries', 'delivery', 'delivery_attempts', 'delivery_error', 'delivered', 'next_delivery', 'delivery_parked')
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', redis.call('XADD', KEYS[17], '*', 't', ARGV[1]),
  'updated', text(now_ms()), 'lost', 0, 'base', attempts, 'call', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'runs', 1)
redis.call('ZADD', KEYS[16], seq, ARGV[1])
count_move(KEYS[6], KEYS[15], nil, 'queued')
return { 'OK' }
