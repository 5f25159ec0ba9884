-- Read what tells why a task waits. A short queue is counted. The place in a longer one follows from the entries of the task and of
-- both ends, which are returned: from the places of their tasks in the order of creation, or from the place in the field `n` of an
-- entry whose task was retried by hand or had a delay.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, history, endpoint, queue, retry_queue, due, counts, lane_entries, lanes
-- replies:
--   SCHEDULED: now_ms integer, since_ms integer, has_started flag, desired text, has_failed flag, wanted_workers integer,
--     losses integer, due_ms optional integer, latest optional bytes (JSON of the latest attempt in the history)
--   QUEUED: now_ms integer, since_ms integer, has_started flag, desired text, has_failed flag, wanted_workers integer,
--     losses integer, is_new flag (it waits with the new tasks), depth integer (of its queue), other_depth integer,
--     before optional integer (tasks before it in its queue, if counted), ends entries (its own, the first and the last of its
--     queue; none when counted, and without its entry), is_paused flag, tokens optional number, starts_per_second optional number
--     (attempts that may begin now, and in a second; none without a rate limit), lane list of integer (empty if no task of the endpoint
--     waits in a lane; else the tasks before it in its lane, -1 for a task of the plain queues, the lanes in the ring of its level, the
--     waiting tasks of its level and of the levels above, the tasks of its key that are taken or run, the limit of a key, 0 for none)
--   OK (the task does not wait, or does not exist)
local state, updated, started, lost, resets, entry, has_history, lane =
  unpack(redis.call('HMGET', task, 'state', 'updated', 'started', 'lost', 'resets', 'entry', 'history', 'lane'))
if state ~= 'queued' and state ~= 'scheduled' then return { 'OK' } end
local desired, failed, workers, paused, limit, key_limit =
  unpack(redis.call('HMGET', endpoint, 'wanted', 'failed', 'workers', 'paused', 'rate_limit', 'key_limit'))
local now, has_started, has_failed, losses = text(now_ms()), started and 1 or 0, failed == '1' and 1 or 0, lost + (resets or 0)
local member, task_id = names_of(task)
if state == 'scheduled' then
  local due_ms, latest = redis.call('ZSCORE', due, member), has_history and redis.call('LINDEX', history, -1)
  return { 'SCHEDULED', now, updated, has_started, desired, has_failed, workers, losses, due_ms, latest }
end
local lane_facts, queued, high, normal, low =
  {}, unpack(redis.call('HMGET', counts, 'queued', 'queued:0', 'queued:1', 'queued:2'))
queued, high, normal, low = tonumber(queued or '0'), tonumber(high or '0'), tonumber(normal or '0'), tonumber(low or '0')
if high + normal + low > 0 then
  local level, key = string.match(lane or '1', '^(%d)(%S*)')
  local before, held = -1, tonumber(key ~= '' and redis.call('HGET', lanes, 'r:' .. key) or '0')
  if lane then before = redis.call('ZLEXCOUNT', lane_entries, '[' .. lane .. ' ', '(' .. entry .. ' ') end
  local waiting = level == '0' and high or level == '1' and queued - high - low or low
  local above = level == '0' and 0 or level == '1' and high or queued - low
  local turns = redis.call('LLEN', ring_of(level))
  -- The plain queues keep their turn in the ring while they are empty.
  if level == '1' and queued <= high + normal + low then turns = turns - redis.call('HEXISTS', lanes, 's:1') end
  lane_facts = { before, turns, waiting, above, held, tonumber(key_limit or '') or 0 }
end
if lane then entry = false end
local stream, other = queue, retry_queue
local own = entry and redis.call('XRANGE', stream, entry, entry)[1]
if entry and not (own and own[2][2] == task_id) then -- both queues may have an entry with the same id
  stream, other = retry_queue, queue
  own = redis.call('XRANGE', stream, entry, entry)[1]
end
local depth, before, ends = redis.call('XLEN', stream), false, {}
if own and depth <= MAX_COUNTED_PLACES then
  before = #redis.call('XRANGE', stream, '-', '(' .. entry)
elseif own then
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  ends = { own, first, redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1] }
end
local tokens, per_second = false, false
if (limit or '') ~= '' then
  tokens, per_second = start_tokens(limit, now_us())
  tokens, per_second = string.format('%.6f', tokens), tostring(per_second)
end
return { 'QUEUED', now, updated, has_started, desired, has_failed, workers, losses, stream == queue and 1 or 0, depth,
  redis.call('XLEN', other), before, ends, paused == '1' and 1 or 0, tokens, per_second, lane_facts }
