-- Begin an attempt: remove the entry from the queue, and give the task a token and a lease. An attempt that begins ahead of a
-- free slot is marked until its agent reports that its call has begun (see renew.lua).
--
-- flags: allow-oom
-- keys of a task: task, body, leases, endpoint, deadlines
-- keys: stream (that the entry came from)
-- arguments: entry_id text, token text, lease_ms integer, worker_id text, address text (of the container),
--   is_ahead flag (no slot of the agent is free for the call)
-- replies:
--   OK: attempt integer, max_attempts integer, timeout_seconds number, created_ms integer, started_ms integer,
--     number integer, spec_length integer, spec_and_input bytes, lost integer, connections_lost integer,
--     attempts_before integer (the latest retry by hand), retry_on text, retry_delays text, cancel_uri text,
--     busy_tries integer (of the busy streak so far), has_history flag (the history has an earlier try)
--   STALE (the task does not wait with this entry, because the entry was read twice or there is no such task)
local state, entry, holder, lost_token, deadline, updated, attempt, max, timeout, created, started, number, spec, lost, resets,
  base, busy_tries, has_history, noted, spared = unpack(redis.call('HMGET', task, 'state', 'entry', 'token', 'lost_token',
    'deadline', 'updated', 'attempts', 'max', 'timeout', 'created', 'started', 'number', 'spec', 'lost', 'resets', 'base',
    'busy_tries', 'history', 'noted', 'spared'))
local repeated = state == 'running' and holder == token
-- The entry's id alone does not identify the queue in which the task waits, because both queues may use the same id.
local was_there = drop(stream, 'agents', entry_id)
if not repeated and (not was_there or state ~= 'queued' or entry ~= entry_id) then return { 'STALE' } end
if not repeated then
  local now = now_ms()
  local member = names_of(task)
  -- Until now the attempt that lost its lease could have been readopted, so it is recorded only here.
  if lost_token and not noted then
    note_attempt(updated, 'lost')
    has_history = 1
  end
  if deadline then redis.call('ZREM', deadlines, member) end
  attempt, started = attempt + 1, text(now)
  redis.call('HSET', task, 'state', 'running', 'token', token, 'worker', worker_id, 'address', address,
    'started', started, 'updated', started, 'attempts', attempt)
  redis.call('HDEL', task, 'entry', 'lost_token', 'noted', 'ahead')
  if is_ahead and tonumber(spared or 0) < MAX_SPARED then redis.call('HSET', task, 'ahead', 1) end
  redis.call('ZADD', leases, text(now + lease_ms), member)
  count_move('queued', 'running')
end
local retry_on, retry_delays, cancel_uri = unpack(redis.call('HMGET', endpoint, 'retry_on', 'retry_delays', 'cancel_uri'))
return { 'OK', attempt, max, timeout, created, started, number, spec, redis.call('GET', body) or '', lost, resets or 0,
  base or 0, retry_on or '', retry_delays or '', cancel_uri or '', busy_tries or 0, has_history }
