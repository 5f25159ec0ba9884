#!lua flags=allow-oom
-- Begin an attempt: the entry leaves the queue, the task gets a token and a lease.
-- KEYS 1 task 2 body 3 stream that the entry came from 4 leases 5 endpoint counts 6 partition counts 7 endpoint 8 deadlines
--      9 history
-- ARGV 1 entry id 2 member 3 token 4 lease in ms 5 worker id 6 address of the container
-- Reply {'OK', attempt, max attempts, timeout s, created ms, now ms, number, length of the spec, spec and input, lost,
--        connections lost, attempts before the latest retry by hand, what is tried again or '', waits in s or '',
--        cancelUri or '', tries of the busy streak so far, '1' when an earlier try is in the history or ''}
--       {'STALE'} the task is not waiting with this entry (a second delivery of it, or the task is gone)
local state, entry, token, lost_token, deadline, updated =
  unpack(redis.call('HMGET', KEYS[1], 'state', 'entry', 'token', 'lost_token', 'deadline', 'updated'))
local repeated = state == 'running' and token == ARGV[3]
-- The entry's id alone does not tell where the task waits: both queues may use it in one millisecond.
local was_there = drop(KEYS[3], 'agents', ARGV[1])
if not repeated and (not was_there or state ~= 'queued' or entry ~= ARGV[1]) then return { 'STALE' } end
local now = now_ms()
if not repeated then
  -- Until now the agent that had lost the task could have come back to it.
  if lost_token then note_attempt(KEYS[9], KEYS[1], updated, 'lost') end
  if deadline then redis.call('ZREM', KEYS[8], ARGV[2]) end
  redis.call('HSET', KEYS[1], 'state', 'running', 'token', ARGV[3], 'worker', ARGV[5], 'address', ARGV[6],
    'started', text(now), 'updated', text(now))
  redis.call('HDEL', KEYS[1], 'entry', 'lost_token', 'noted')
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
  redis.call('ZADD', KEYS[4], text(now + tonumber(ARGV[4])), ARGV[2])
  count_move(KEYS[5], KEYS[6], 'queued', 'running')
end
local task = redis.call('HMGET', KEYS[1], 'attempts', 'max', 'timeout', 'created', 'started', 'number', 'spec', 'lost',
  'resets', 'base', 'busy_tries', 'history')
local policy = redis.call('HMGET', KEYS[7], 'retry_on', 'retry_delays', 'cancel_uri')
return { 'OK', task[1], task[2], task[3], task[4], task[5], task[6], task[7], redis.call('GET', KEYS[2]) or '', task[8],
  task[9] or '0', task[10] or '0', policy[1] or '', policy[2] or '', policy[3] or '',
  task[11] or '0', task[12] or '' }
