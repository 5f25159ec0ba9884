-- Accept a task, once for each task id. Not allowed at maxmemory, so that running tasks can still end.
--
-- flags: durable
-- keys of a task: endpoint, task, body, queue, created, live, counts, partition_counts, deadlines
-- keys: extra list (of a task with a delay, with tags or in a lane: due, tags, tagged; of one that may be in a lane also lane_entries,
--   lanes, ring_high, ring_normal, ring_low; none for others, because every key costs)
-- arguments:
--   fingerprint text (of the request), tenant text, spec_and_input bytes, spec_length text, partition_index integer,
--   options map (those that are given: destination of its webhook; execution_timeout and queue_ttl in seconds, instead of the
--     endpoint's; tag_names with spaces between them; delay_ms or run_at_ms, before which the task does not begin; lane, the
--     digit of its level, or `-` for the endpoint's default, and its key)
-- replies:
--   OK
--   EXISTS (the same request was accepted before)
--   CONFLICT (a task of another request has the id)
--   NOT_FOUND
--   NOT_QUEUE
--   CLOSED (the endpoint is stopped or failed)
--   FULL
--   IN_LANE (nothing is stored: the task waits in a lane by the endpoint's default priority, and the keys of lanes were not passed)
--   TOO_LATE (the task would begin later than MAX_DELAY_MS from now)
--   LIMITED: per_second integer (the endpoint's limit of submissions, which is reached)
--   WITHIN: result text (OK, EXISTS or CONFLICT), per_second integer (the endpoint's limit of submissions), left integer
local owner, mode, desired, failed, max_queued, max_attempts, timeout, ttl, max_submits, default_priority =
  unpack(redis.call('HMGET', endpoint, 'tenant', 'mode', 'wanted', 'failed', 'max_queued', 'max_attempts', 'timeout', 'queue_ttl',
    'max_submits', 'default_priority'))
if owner ~= tenant or desired == 'deleted' then return { 'NOT_FOUND' } end
if mode ~= 'QUEUE' then return { 'NOT_QUEUE' } end
local given = {}
for index = 1, #options, 2 do given[options[index]] = options[index + 1] end
local lane = given.lane
if not lane or string.sub(lane, 1, 1) == '-' then
  local level = default_priority == 'high' and '0' or default_priority == 'low' and '2' or '1'
  lane = level .. string.sub(lane or '-', 2)
end
if lane == '1' then lane = nil end -- it waits in the plain queue
if lane and not extra[4] then return { 'IN_LANE' } end
local left = nil
if (max_submits or '') ~= '' then
  -- Before the look at the task, because a repeated submission costs as much as a new one.
  local bucket = nil
  bucket, left = take_token(redis.call('HGET', counts, 'submits'), max_submits, now_us())
  if not bucket then return { 'LIMITED', max_submits } end
  redis.call('HSET', counts, 'submits', bucket)
end
local before = redis.call('HGET', task, 'print')
if before and left then return { 'WITHIN', before == fingerprint and 'EXISTS' or 'CONFLICT', max_submits, left } end
if before then return { before == fingerprint and 'EXISTS' or 'CONFLICT' } end
if desired ~= 'running' or failed == '1' then return { 'CLOSED' } end
-- The counts are read and written once, because a command takes longer than a field.
local queued, scheduled, seq, bytes, counted_from =
  unpack(redis.call('HMGET', counts, 'queued', 'scheduled', 'seq:all', 'bytes', 'counted_from'))
queued, scheduled = tonumber(queued) or 0, tonumber(scheduled) or 0
if queued + scheduled >= tonumber(max_queued) then return { 'FULL' } end

timeout, ttl = given.execution_timeout or timeout, given.queue_ttl or ttl
local at = now_ms()
local run_at = tonumber(given.run_at_ms) or (given.delay_ms and at + given.delay_ms)
if run_at and run_at > at + MAX_DELAY_MS then return { 'TOO_LATE' } end
local is_delayed = run_at and run_at > at
local member, task_id = names_of(task)
local due, tags, tagged = unpack(extra)
seq = (seq or 0) + 1
redis.call('XADD', created, seq .. '-' .. at, 't', task_id)
local number = redis.call('HINCRBY', partition_counts, 'seq', 1) * TASKS_PER_PARTITION_STEP + partition_index
local state, waiting, place, value = 'queued', queued + 1, 'entry', nil
if is_delayed then
  state, waiting, place, value = 'scheduled', scheduled + 1, 'run_at', run_at
  redis.call('ZADD', due, value, member)
else
  value = lane and enter_lane({ unpack(extra, 4) }, lane, 1, task_id) or redis.call('XADD', queue, '*', 't', task_id)
end
-- A plain SET would search for an expiry to remove, in a table with a key for each ended task.
if not redis.call('SET', body, spec_and_input, 'NX', 'KEEPTTL') then redis.call('SET', body, spec_and_input) end
redis.call('HSET', task, 'state', state, place, value, 'attempts', 0, 'lost', 0, 'created', at, 'updated', at,
  'number', number, 'seq', seq, 'print', fingerprint, 'spec', spec_length, 'timeout', timeout, 'max', max_attempts)
if lane then redis.call('HSET', task, 'lane', lane) end
if ttl and ttl ~= '' and is_delayed then
  redis.call('HSET', task, 'ttl', ttl) -- the time in the queue counts from the end of the delay (see promote.lua)
elseif ttl and ttl ~= '' then
  local deadline = at + math.ceil(tonumber(ttl) * 1000)
  redis.call('HSET', task, 'ttl', ttl, 'deadline', deadline)
  redis.call('ZADD', deadlines, deadline, member)
end
-- A longer value would make the hash no longer compact. Then only the spec has the destination.
local destination = given.destination
if destination then redis.call('HSET', task, 'webhook', #destination <= 64 and destination or '1') end
redis.call('ZADD', live, seq, task_id)
redis.call('HSET', counts, 'seq:all', seq, state, waiting, 'bytes', (bytes or 0) + #spec_and_input + TASK_BYTES)
if waiting == 1 then note_waiting() end
redis.call('HINCRBY', partition_counts, state, 1)
if not is_delayed then ring_bell() end
if given.tag_names then add_tags(tags, tagged, seq, task_id, given.tag_names) end
if not counted_from then redis.call('HSET', counts, 'counted_from', seq) end
if left then return { 'WITHIN', 'OK', max_submits, left } end
return { 'OK' }
