-- Begin attempts of tasks of one endpoint: remove the entries from the queues, and give each task a token and a lease. An attempt
-- that begins ahead of a free slot is marked until its agent reports that its call has begun (see renew.lua). The inputs are
-- returned together, so no further attempt begins after MAX_STARTED_BYTES.
--
-- flags: allow-oom
-- keys of a task: task, body, history, leases, endpoint, deadlines, turn
-- keys: stream (that the entry came from), more list (task, body, history and stream of each further entry)
-- arguments: lease_ms integer, worker_id text,
--   is_compared flag (an entry of another task is left alone, because the agent may have made up the pair),
--   entries list of text (of each entry: its id, the token of the attempt, the address of the container, and `1` when no slot of
--     the agent is free for the call)
-- replies:
--   OK: retry_on text, retry_delays text, cancel_uri text, attempts list of list of bytes (of the first entries: OK and what
--     `start` returns; STALE when the task does not wait with the entry, because the entry was read twice or there is no such
--     task; ERROR and its text)
local now = now_ms()
local started_at = text(now)
local moved, bytes, new_leases, acknowledged = 0, 0, {}, {}

local function start(entry_id, token, address, is_ahead)
  local state, entry, holder, deadline, attempt, max, timeout, created, updated, started, number, spec, lost, run_at =
    unpack(redis.call('HMGET', task, 'state', 'entry', 'token', 'deadline', 'attempts', 'max', 'timeout', 'created', 'updated',
      'started', 'number', 'spec', 'lost', 'run_at'))
  -- A task that has never started has none of these fields. The search for a missing field goes through the whole hash.
  local lost_token, resets, base, busy_tries, has_history, noted, spared = nil, nil, nil, nil, nil, nil, nil
  if started then
    lost_token, resets, base, busy_tries, has_history, noted, spared = unpack(redis.call('HMGET', task, 'lost_token', 'resets',
      'base', 'busy_tries', 'history', 'noted', 'spared'))
  end
  if is_compared and is_of_another(stream, entry_id, task) then return 'STALE' end
  local repeated = state == 'running' and holder == token
  local place = stream == turn and place_in_lane(entry_id)
  -- The entry's id alone does not identify the queue in which the task waits, because both queues may use the same id.
  local was_there = redis.call('XDEL', stream, entry_id) == 1
  local of_stream = acknowledged[stream] or {}
  acknowledged[stream], of_stream[#of_stream + 1] = of_stream, entry_id
  local is_stale = not was_there or state ~= 'queued' or entry ~= (place or entry_id)
  local is_whole = max and timeout and created and number and spec
  if place and was_there and (is_stale or repeated or not is_whole) then leave_key(place) end
  if is_stale and not repeated then return 'STALE' end
  if not is_whole then error('the task has not all of its fields') end
  -- A waiting task was changed last when it was queued: by its submission, the end of a backoff, or a retry by hand. Before its
  -- first call it waits from its submission or the end of its delay, although the controller may queue it late, and an agent may
  -- have released it.
  local is_untried = not (has_history or lost_token or base)
  local queued_at = is_untried and (run_at or started and created) or updated or created
  if not repeated then
    local member = names_of(task)
    -- Until now the attempt that lost its lease could have been readopted, so it is recorded only here.
    if lost_token and not noted then
      note_lost(updated)
      has_history = 1
    end
    if deadline then redis.call('ZREM', deadlines, member) end
    if started then
      redis.call('HDEL', task, 'entry', 'lost_token', 'noted', 'silent', 'ahead')
    else
      redis.call('HDEL', task, 'entry')
    end
    attempt, started = text(attempt + 1), started_at
    redis.call('HSET', task, 'state', 'running', 'token', token, 'worker', worker_id, 'address', address,
      'started', started, 'updated', started, 'attempts', attempt)
    -- The mark is the token, because agents of an earlier version do not remove it when they begin another attempt.
    if is_ahead and tonumber(spared or 0) < MAX_SPARED then redis.call('HSET', task, 'ahead', token) end
    if place then count_out_of_lane(place) end
    moved = moved + 1
    new_leases[2 * moved - 1], new_leases[2 * moved] = text(now + lease_ms), member
  end
  local spec_and_input = redis.call('GET', body) or ''
  bytes = bytes + #spec_and_input
  return 'OK', attempt, max, timeout, queued_at, started, number, spec, spec_and_input, lost, resets or '0', base or '0',
    busy_tries or '0', has_history and '1' or ''
end

local attempts = {}
for index = 1, #entries, 4 do
  if index > 1 then task, body, history, stream = unpack(more, index - 4, index - 1) end
  local is_ahead = entries[index + 3] == '1'
  attempts[#attempts + 1] = results_of(pcall(start, entries[index], entries[index + 1], entries[index + 2], is_ahead))
  if bytes > MAX_STARTED_BYTES then break end
end
for name, ids in pairs(acknowledged) do redis.call('XACK', name, 'agents', unpack(ids)) end
if moved > 0 then
  redis.call('ZADD', leases, unpack(new_leases))
  count_move('queued', 'running', moved)
end
local retry_on, retry_delays, cancel_uri = unpack(redis.call('HMGET', endpoint, 'retry_on', 'retry_delays', 'cancel_uri'))
return { 'OK', retry_on or '', retry_delays or '', cancel_uri or '', attempts }
