-- Functions and constants of the scripts. Parts have an empty line between them. A script gets the parts that it uses.

-- Limit of attempts in a task's history.
local MAX_ATTEMPTS = 50

-- Limit of the error text of an attempt in a task's history.
local MAX_WHY_BYTES = 512

-- Limit of a task's body and limit of its result up to which both are stored in one key.
local MAX_JOINED_BYTES = 1024

-- Limit of attempts of a task that may end at no cost because their worker was lost before their calls began. The engine learns of
-- a call a moment after it began. A task that kills its worker in this moment must not continue forever.
local MAX_SPARED = 3

-- Limit of the inputs of attempts that begin in one call. They are in the server's memory several times.
local MAX_STARTED_BYTES = 1024 * 1024

-- Outcome of the attempt that ended a task in this state, for the history.
local OUTCOME = { succeeded = 'ok', failed = 'error', cancelled = 'cancelled', timed_out = 'timeout', dead = 'lost' }

-- Fields of the counts of an endpoint and of a partition: the numbers of workers by status.
local WORKER_COUNTS = { 'workers:INITIALIZING', 'workers:RUNNING', 'workers:STOPPING', 'workers:STOPPED', 'workers:FAILED' }

local TERMINAL = { succeeded = true, failed = true, cancelled = true, expired = true, timed_out = true, dead = true }

-- Return the store's clock in epoch milliseconds. No other clock decides about leases, waits and retention.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the store's clock in epoch microseconds.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Take a token from a bucket that holds the tokens of one second and is full at first. A bucket is the number of tokens left and
-- the time at which they were left, in microseconds. After a step back of the clock it is full. Return the bucket and the number
-- of tokens left in it; nothing when it is empty. A millionth of a token is added, because fractions are rounded.
local function take_token(bucket, per_second, now)
  local tokens, at = string.match(bucket or '', '^(%S+) (%d+)$')
  per_second, at = tonumber(per_second), tonumber(at or now + 1)
  tokens = at > now and per_second or math.min(per_second, tokens + (now - at) * per_second / 1000000)
  local left = math.floor(tokens - 1 + 0.000001)
  if left >= 0 then return string.format('%.6f %.0f', tokens - 1, now), left end
end

-- Return the number of tokens in an endpoint's bucket of starts, and how many are added in a second; nothing without a rate limit.
-- `limit` is the rate limit as stored, or false. After a step back of the clock the bucket is full, as at first.
-- keys: counts
local function start_tokens(limit, now)
  local per_second, burst = string.match(limit or '', '^(%S+) (%d+)$')
  if not per_second then return end
  per_second, burst = tonumber(per_second), tonumber(burst)
  local tokens, at = string.match(redis.call('HGET', counts, 'starts') or '', '^(%S+) (%d+)$')
  at = tonumber(at or now + 1)
  if at > now then return burst, per_second end
  return math.min(burst, tokens + (now - at) * per_second / 1000000), per_second
end

-- Keep the tokens of the bucket of starts.
-- keys: counts
local function keep_start_tokens(tokens, now)
  redis.call('HSET', counts, 'starts', string.format('%.6f %.0f', tokens, now))
end

-- Return a whole number as text without an exponent. Arguments of commands, and numbers below 10^14 that are joined with a text, have
-- none anyway. Scripts of each task use them without this function, which takes as long as a small command.
local function text(number)
  return string.format('%.0f', number)
end

-- Return the member of a task in the sorted sets of its partition, and the task id, both from the task's key.
local function names_of(task_key)
  return string.match(task_key, ':t:([^:]+:(.+))$')
end

-- Return the part of a worker's key that is the worker's id, and the part before it.
local function last_name_of(key)
  local front, name = string.match(key, '^(.*:)([^:]+)$')
  return name, front
end

-- Return the id of an endpoint from its key.
local function id_of_endpoint(endpoint_key)
  return string.match(endpoint_key, ':e:(.+)$')
end

-- Take members of a sorted set of times that are due, the longest due first. They are held, so that no other taker gets them: a
-- member that is not planned again, because its taker has died, is due after the hold. A member later than `latest` is due too,
-- because its time is from before a step back of the clock. Return the time, the end of the hold and the members.
local function take_due(key, hold, latest, limit)
  local now = now_ms()
  local held_until = text(now + hold)
  local members = redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'LIMIT', 0, limit)
  if latest then
    local late = redis.call('ZRANGEBYSCORE', key, '(' .. text(now + latest), '+inf', 'LIMIT', 0, limit - #members)
    for _, member in ipairs(late) do members[#members + 1] = member end
  end
  for _, member in ipairs(members) do redis.call('ZADD', key, held_until, member) end
  return text(now), held_until, members
end

-- Let the leading controller look at an endpoint's workers in its next round.
-- keys: endpoint, due_checks
local function check_now()
  redis.call('ZADD', due_checks, 'LT', text(now_ms()), id_of_endpoint(endpoint))
end

-- Note an endpoint whose first task waits for the metrics, which remove endpoints without waiting tasks.
-- keys: counts, waiting_endpoints
local function note_waiting()
  redis.call('SADD', waiting_endpoints, string.match(counts, ':cnt:(.+)$'))
end

-- Return the time at which the oldest queued task was queued; false without one. In lanes, only the first task of the lane that is served
-- next at each level is looked at.
-- keys: queue, retry_queue, turn, lane_entries, ring_high, ring_normal, ring_low
local function oldest_queued()
  local oldest = false
  local function note_time(time)
    if time and (not oldest or time < oldest) then oldest = time end
  end
  for _, stream in ipairs({ queue, retry_queue, turn }) do
    local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    note_time(head and tonumber(string.match(head[1], '^%d+')))
  end
  for level, ring in ipairs({ ring_high, ring_normal, ring_low }) do
    for _, key in ipairs(redis.call('LRANGE', ring, 0, 1)) do
      local lane = level - 1 .. key
      local first = redis.call('ZRANGEBYLEX', lane_entries, '[' .. lane .. ' ', '(' .. lane .. '!', 'LIMIT', 0, 1)[1]
      note_time(first and math.floor(string.match(first, '^%S+ %d(%d+)') / 1000))
    end
  end
  return oldest
end

-- Write records into the rings of a series, a string of `size` bytes that begins as zeros. It gets its size at once, because a string
-- that grows takes twice as much memory.
local function write_records(rings, records, size)
  if redis.call('EXISTS', rings) == 0 then redis.call('SETRANGE', rings, size - 1, '\0') end
  for index = 1, #records, 2 do redis.call('SETRANGE', rings, records[index], records[index + 1]) end
end

-- Move tasks between waiting and running states in the counts of their endpoint and its partition: one, unless `number` is given.
-- keys: counts, partition_counts
local function count_move(from, to, number)
  number = number or 1
  if from then
    redis.call('HINCRBY', counts, from, -number)
    redis.call('HINCRBY', partition_counts, from, -number)
  end
  if redis.call('HINCRBY', counts, to, number) == number and to ~= 'running' then note_waiting() end
  redis.call('HINCRBY', partition_counts, to, number)
end

-- Ring the bell of an endpoint, so that an agent that waits for it claims tasks (see claim.lua). With pcall, because an agent whose
-- user has the rules of an earlier version may not. Then the tasks wait until an agent claims without a bell.
-- keys: bell
local function ring_bell()
  local bells = redis.pcall('LLEN', bell)
  if type(bells) == 'number' and bells < MAX_BELLS then redis.pcall('RPUSH', bell, 1) end
end

-- Tasks with a priority or a fairness key wait in lanes, all others in the plain queues. The name of a lane is the digit of its level
-- (0 high, 1 normal, 2 low) and the key. The lanes of an endpoint share a sorted set of `<lane> <rank><number> <task>`, in which each
-- lane is first in, first out. The rank 0 is for tasks that came back. `<lane> <rank><number>` is the task's entry.
--
-- The lanes of a level take turns: its ring is a list of the keys of lanes that may be served, each once. In the ring of the level
-- normal an empty text is the turn of the plain queues. claim.lua takes the first task of the first lane of a ring, and puts the lane
-- behind the others. A lane that has no tasks leaves its ring. A lane whose key has as many running tasks as it may is parked, out of
-- the ring, until one of these tasks leaves the key.
--
-- For example, key `a` has three waiting tasks of the level normal, key `b` one, and the limit of a key is 1. The ring is
-- ['', 'a', 'b']. Three claims of one task find no plain task, take one of `a` and one of `b`, and park the lane `1a`. When the task
-- of `a` ends, the lane is put behind the others in the ring.
--
-- An entry of the stream `turn` is a task that is taken and has not begun. Such an entry and a running task count for their key. The
-- entry is removed when its task no longer waits.
--
-- Return true if a task with this entry waits in a lane. Entries of the plain queues have no space.
local function is_in_lane(entry)
  return string.find(entry, ' ', 1, true) ~= nil
end

-- Return true if the endpoint has had tasks in lanes. Otherwise no task has a lane, and the search for a missing field goes through the
-- whole hash of the task. With pcall, because an agent whose user has the rules of an earlier version may not. It has no such task.
-- keys: lanes
local known_use_of_lanes
local function uses_lanes()
  if known_use_of_lanes == nil then known_use_of_lanes = redis.pcall('EXISTS', lanes) == 1 end
  return known_use_of_lanes
end

-- Return the keys of the lanes, in a table. They are passed to two functions, because most submissions do without them.
-- keys: lane_entries, lanes, ring_high, ring_normal, ring_low
local function lane_keys()
  return { lane_entries, lanes, ring_high, ring_normal, ring_low }
end

-- Return the ring of a level.
-- keys: ring_high, ring_normal, ring_low
local function ring_of(level)
  return level == '0' and ring_high or level == '1' and ring_normal or ring_low
end

-- Add a task to its lane by its entry, and the lane to its ring unless it is there or parked. `keys` is those of the lanes.
local function add_to_lane(keys, entry, task_id)
  local lane, level, key = string.match(entry, '^((%d)(%S*)) ')
  redis.call('ZADD', keys[1], 0, entry .. ' ' .. task_id)
  if redis.call('HSETNX', keys[2], 's:' .. lane, 1) == 0 then return end
  if level == '1' and redis.call('HSETNX', keys[2], 's:1', 1) == 1 then redis.call('RPUSH', keys[4], '') end
  redis.call('RPUSH', keys[3 + level], key)
end

-- Queue a task in its lane, with the rank 0 before new tasks. Return its entry. The numbers follow the time, and rise also after a step
-- back of the clock, so that no entry is used twice. `keys` is those of the lanes.
-- keys: counts
local function enter_lane(keys, lane, rank, task_id)
  local number = math.max(now_us(), tonumber(redis.call('HGET', keys[2], 'n') or '0') + 1)
  redis.call('HSET', keys[2], 'n', text(number))
  redis.call('HINCRBY', counts, 'queued:' .. string.sub(lane, 1, 1), 1)
  local entry = lane .. ' ' .. rank .. text(number)
  add_to_lane(keys, entry, task_id)
  return entry
end

-- Count a task as no longer waiting in its lane.
-- keys: counts
local function count_out_of_lane(entry)
  redis.call('HINCRBY', counts, 'queued:' .. string.sub(entry, 1, 1), -1)
end

-- Return the entry in its lane of a task that was taken out of it; nil when the stream has no such entry.
-- keys: turn
local function place_in_lane(entry_id)
  local found = redis.call('XRANGE', turn, entry_id, entry_id)[1]
  return found and found[2][4]
end

-- Queue a task that came back. Return its entry.
-- keys: retry_queue
local function queue_again(lane, task_id)
  if lane then return enter_lane(lane_keys(), lane, 0, task_id) end
  return redis.call('XADD', retry_queue, '*', 't', task_id)
end

-- Queue a task that has not run, or runs again by hand. Return its entry. Places rise along the plain queue (see
-- why.lua), so a task that is queued after its submission gets that of the latest one.
-- keys: queue, counts
local function queue_as_new(lane, task_id)
  if lane then return enter_lane(lane_keys(), lane, 1, task_id) end
  return redis.call('XADD', queue, '*', 't', task_id, 'n', redis.call('HGET', counts, 'seq:all'))
end

-- Count a task that is taken or runs for its key. `lane` is its lane or its entry in it.
-- keys: lanes
local function enter_key(lane)
  local key = string.match(lane, '^%d(%S+)')
  if key then redis.call('HINCRBY', lanes, 'r:' .. key, 1) end
end

-- Stop counting a task for its key, and let the lanes that are parked for the key be served again. `lane` is its lane or its entry in
-- it.
-- keys: lanes, parked
local function leave_key(lane)
  local key = string.match(lane, '^%d(%S+)')
  if not key then return end
  if redis.call('HINCRBY', lanes, 'r:' .. key, -1) <= 0 then redis.call('HDEL', lanes, 'r:' .. key) end
  if redis.call('EXISTS', parked) == 0 then return end
  for _, level in ipairs({ '0', '1', '2' }) do
    if redis.call('SREM', parked, level .. key) == 1 then
      redis.call('RPUSH', ring_of(level), key)
      ring_bell()
    end
  end
end

-- Let all parked lanes be served again, because the limit of a key has changed. There are at most three for each running task.
-- keys: parked
local function unpark_all()
  for _, lane in ipairs(redis.call('SMEMBERS', parked)) do
    redis.call('RPUSH', ring_of(string.sub(lane, 1, 1)), string.sub(lane, 2))
  end
  redis.call('DEL', parked)
end

-- Add to what an endpoint uses: `bytes` of its tasks, or `deliveries` of results that wait. Tasks of earlier versions were not added,
-- so a sum may not become negative.
-- keys: counts
local function add_use(name, by)
  if redis.call('HINCRBY', counts, name, by) < 0 then redis.call('HSET', counts, name, 0) end
end

-- Return the bytes of the nodes of a worker's log. A node of a stream has at most `stream-node-max-bytes`, NODE_BYTES by default.
local function log_bytes(log)
  local facts = redis.pcall('XINFO', 'STREAM', log) -- an error, without items, when there is no such log
  for index = 1, #facts, 2 do
    if facts[index] == 'radix-tree-keys' then return facts[index + 1] * NODE_BYTES end
  end
  return 0
end

-- Set what an endpoint without tasks uses to zero, because processes of an earlier version remove tasks and end deliveries without
-- subtracting them. Return true if it has tasks.
-- keys: counts, created
local function correct_use()
  local has_tasks = redis.call('XLEN', created) > 0
  if not has_tasks then redis.call('HDEL', counts, 'bytes', 'deliveries') end
  return has_tasks
end

-- Return the bytes that were added for an ended task, by its entry's fields in the index of this status. An entry of an agent of an
-- earlier version has no bytes, and the task's output was not added. An entry of a delivery process of an earlier version has none
-- either, but the output may have been added. It is included, because a sum that only rises would refuse the tenant's tasks forever.
-- The field `counted_from` is the place of the first task whose input was added.
-- keys: counts, task, body, result
local function bytes_in(fields, status)
  if not fields then return 0 end
  if fields[5] == 'b' then return tonumber(fields[6]) end
  local place, first = fields[4], redis.call('HGET', counts, 'counted_from')
  if not first or tonumber(place) < tonumber(first) then return 0 end
  local seq, result_at = unpack(redis.call('HMGET', task, 'seq', 'result_at'))
  if seq ~= place then return TASK_BYTES end -- the task's data has expired
  local length = redis.call('STRLEN', body)
  if status == 'delivered' then return length + redis.call('STRLEN', result) + TASK_BYTES end
  return tonumber(result_at or length) + TASK_BYTES
end

-- Change the number of workers with a status in the counts of the endpoint and its partition.
-- keys: counts, partition_counts
local function count_workers(status, by)
  redis.call('HINCRBY', counts, 'workers:' .. status, by)
  redis.call('HINCRBY', partition_counts, 'workers:' .. status, by)
end

-- Correct the numbers of an endpoint's workers, which agents of data format 1 do not change.
-- keys: counts, workers
local function recount_workers()
  local real = {}
  for _, status in ipairs(redis.call('HVALS', workers)) do real[status] = (real[status] or 0) + 1 end
  local counted = redis.call('HMGET', counts, unpack(WORKER_COUNTS))
  for index, name in ipairs(WORKER_COUNTS) do
    local status = string.match(name, ':(.+)$')
    local by = (real[status] or 0) - (counted[index] or 0)
    if by ~= 0 then count_workers(status, by) end
  end
end

-- An index is a stream of entries `<number>-<time>`, numbered 1, 2, 3 … in order of arrival. Most entries are removed in that
-- order. An entry that is removed before an older one leaves a gap. The endpoint's counts have the number of gaps, newer than
-- the oldest entry, in each block: blocks of level 1 have BLOCK numbers, a block of each higher level has FAN blocks of the
-- level below. With them page.lua finds an offset in a few steps, however long the stream is. Blocks without gaps have no field.
local BLOCK, FAN, LEVELS = 64, 16, 6

-- Return how many numbers a block of this level has. Levels begin with 1.
local function width(level)
  return BLOCK * FAN ^ (level - 1)
end

local function block_of(number, level)
  return math.floor((number - 1) / width(level))
end

-- Add to the bytes of a task's records: to the sum of its endpoint and to that of its block of places in the order of creation.
-- The data of a task may expire before the task is removed. The bytes that such tasks of a block have added are subtracted with the
-- block's last task (see `forget_records`).
-- keys: counts
local function add_record_bytes(place, by)
  add_use('bytes', by)
  redis.call('HINCRBY', counts, 'records:' .. block_of(tonumber(place), 1), by)
end

-- Append a record to a list of the task at this place that keeps the latest `limit`.
local function add_record(records, record, limit, place)
  local bytes = #record
  if redis.call('RPUSH', records, record) > limit then
    bytes = bytes - #redis.call('LINDEX', records, 0)
    redis.call('LTRIM', records, -limit, -1)
  end
  add_record_bytes(place, bytes)
end

-- Remove the lists of records of a task that was removed from the index of all tasks, and subtract their bytes. Records of agents
-- and processes of an earlier version were not added, so at most the sum of the block is subtracted.
-- keys: counts, created
local function forget_records(place, lists)
  local bytes = 0
  for _, records in ipairs(lists) do
    for _, record in ipairs(redis.call('LRANGE', records, 0, -1)) do bytes = bytes + #record end
    redis.call('DEL', records)
  end
  local block = block_of(tonumber(place), 1)
  local field = 'records:' .. block
  local added = tonumber(redis.call('HGET', counts, field) or '0')
  bytes = math.min(bytes, added)
  if bytes < added then
    local first, last = text(block * BLOCK + 1), text(block * BLOCK + BLOCK)
    if #redis.call('XRANGE', created, first, last, 'COUNT', 1) == 0 then bytes = added end
  end
  if bytes == 0 then return end
  add_use('bytes', -bytes)
  if bytes == added then
    redis.call('HDEL', counts, field)
  else
    redis.call('HINCRBY', counts, field, -bytes)
  end
end

-- Remove the sums of blocks of an endpoint without tasks. Processes of an earlier version leave them when they remove tasks.
-- keys: counts
local function forget_blocks_of_records()
  for _, field in ipairs(redis.call('HKEYS', counts)) do
    if string.find(field, '^records:') then redis.call('HDEL', counts, field) end
  end
end

-- keys: counts
local function forget_gaps(index, level, first, last)
  local fields = {}
  for block = first, last do fields[#fields + 1] = index .. ':' .. level .. ':' .. block end
  if #fields > 0 then redis.call('HDEL', counts, unpack(fields)) end
end

-- keys: counts
local function count_gaps(index, level, block, by)
  local gaps = redis.call('HINCRBY', counts, index .. ':' .. level .. ':' .. block, by)
  if gaps == 0 then forget_gaps(index, level, block, block) end
  -- The counts inside a block without entries are not needed.
  if gaps == width(level) and level > 1 then forget_gaps(index, level - 1, block * FAN, block * FAN + FAN - 1) end
end

-- Remove the gaps between `gone`, which was the oldest entry, and `first`, the oldest entry now. Blocks between them whose
-- block of the next level is between them too have no fields, because that block had no entries.
local function pass_gaps(index, gone, first)
  if first == gone + 1 then return end
  for level = 1, LEVELS do
    local from, to = block_of(gone, level), block_of(first, level)
    local passed = first - 1 - math.max(gone, to * width(level))
    if passed > 0 then count_gaps(index, level, to, -passed) end
    if from < to then
      local end_of_row, start_of_row = from - from % FAN + FAN - 1, to - to % FAN
      forget_gaps(index, level, from, math.min(to - 1, end_of_row))
      if end_of_row < start_of_row then forget_gaps(index, level, start_of_row, to - 1) end
    end
  end
end

-- Append an entry with these fields and values to an index: all, success, delivered or failed. Return its number.
-- keys: counts
local function index_add(index, stream, time, ...)
  local number = redis.call('HINCRBY', counts, 'seq:' .. index, 1)
  redis.call('XADD', stream, number .. '-' .. time, ...)
  return number
end

-- Append an entry of a task to an index that has had it before. It is counted, so that figures count the end of the task once.
-- keys: counts
local function index_again(index, stream, time, ...)
  redis.call('HINCRBY', counts, 'again:' .. index, 1)
  return index_add(index, stream, time, ...)
end

-- Return the number of the oldest entry of an index; nil when the index is empty.
local function index_oldest(stream)
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return entry and tonumber(string.match(entry[1], '^%d+'))
end

-- Return the time at which the first of an endpoint's ended tasks expires; nil when it has none. A task with a time in the future
-- ended before a step back of the clock. It expires from when the step was noticed (see overdue.lua), and now until then, so
-- that it is noticed.
-- keys: endpoint, counts, finished_success, finished_delivered, finished_failed
local function next_expiry(now)
  local retention, first = tonumber(redis.call('HGET', endpoint, 'retention') or '0') * 1000, nil
  local streams = { success = finished_success, delivered = finished_delivered, failed = finished_failed }
  for status, stream in pairs(streams) do
    local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if head then
      local number, time = string.match(head[1], '^(%d+)-(%d+)$')
      local upto, seen = string.match(redis.call('HGET', counts, 'stepped:' .. status) or '', '^(%d+) (%d+)$')
      time = tonumber(time)
      if upto and tonumber(number) <= tonumber(upto) then time = math.min(time, tonumber(seen)) end
      local expiry = time > now and now or time + retention + 1
      if not first or expiry < first then first = expiry end
    end
  end
  return first
end

-- Remove an entry from an index by its number. Return its fields and values; nil when it did not exist.
-- keys: counts
local function index_remove(index, stream, number)
  local entry = redis.call('XRANGE', stream, number, number, 'COUNT', 1)[1]
  if not entry then return nil end
  redis.call('XDEL', stream, entry[1])
  local gone = tonumber(number)
  local oldest = index_oldest(stream) or redis.call('HGET', counts, 'seq:' .. index) + 1
  if gone < oldest then
    pass_gaps(index, gone, oldest)
  else
    for level = 1, LEVELS do count_gaps(index, level, block_of(gone, level), 1) end
  end
  return entry[2]
end

-- Return the member of a tag of a task in the index of tags. The place has leading zeros, so that the members of a tag are in the
-- order of creation.
local function tag_entry(tag, place, task_id)
  return tag .. ' ' .. string.format('%012.0f', place) .. ' ' .. task_id
end

-- Add a new task to the index of tags. `names` is its tags with spaces between them. They are noted beside the index, because the
-- data of the task may expire before the task is removed. The keys are passed, because most submissions do without them.
local function add_tags(tags_key, tagged_key, place, task_id, names)
  local bytes = 0
  for tag in string.gmatch(names, '%S+') do
    local entry = tag_entry(tag, place, task_id)
    redis.call('ZADD', tags_key, 0, entry)
    bytes = bytes + #entry + TAG_BYTES
  end
  redis.call('HSET', tagged_key, text(place), names)
  add_use('bytes', bytes)
end

-- Remove a task from the index of tags.
-- keys: tags, tagged
local function remove_tags(place, task_id)
  local names, bytes = redis.call('HGET', tagged, place), 0
  if not names then return end
  redis.call('HDEL', tagged, place)
  for tag in string.gmatch(names, '%S+') do
    local entry = tag_entry(tag, place, task_id)
    redis.call('ZREM', tags, entry)
    bytes = bytes + #entry + TAG_BYTES
  end
  add_use('bytes', -bytes)
end

-- Return the results of a `pcall` in a table, or the text of its error. A script for several tasks calls a function for each, so
-- that an error with one task does not end the script before the work on the others is complete.
local function results_of(is_ok, ...)
  if is_ok then
    local results = { ... }
    return results
  end
  local failure = ...
  local words = { 'ERROR', type(failure) == 'table' and failure.err or tostring(failure) }
  return words
end

-- Acknowledge an entry and remove it from its stream. Return true if it existed.
local function drop(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  return redis.call('XDEL', stream, entry) == 1
end

-- Remove a waiting task from its lane. If an agent has taken it, its entry in the stream is removed too, because the agent may have
-- died, and the entry would count for its key until another agent tries to start it. The stream has few entries, because each is one
-- that an agent is about to start.
-- keys: lane_entries, turn
local function leave_lane(entry, task_id)
  count_out_of_lane(entry)
  if redis.call('ZREM', lane_entries, entry .. ' ' .. task_id) == 1 then return end
  for _, taken in ipairs(redis.call('XRANGE', turn, '-', '+')) do
    if taken[2][4] == entry then
      drop(turn, 'agents', taken[1])
      leave_key(entry)
      return
    end
  end
end

-- Return true if a queue has this entry, and it is the entry of another task.
local function is_of_another(stream, entry, task_key)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  local _, task_id = names_of(task_key)
  return found and found[2][2] ~= task_id
end

-- Return true while a check that runs every `tick` ms must not expire leases. It gets a grace of `lease` ms after a time in
-- which it did not run or the clock jumped, because after an outage of the store or a step of its clock healthy leases seem
-- to have expired.
-- keys: ticks
local function in_grace(check, now, tick, lease)
  local last = tonumber(redis.call('HGET', ticks, check) or '')
  redis.call('HSET', ticks, check, text(now))
  if last == nil or now < last or now - last > 3 * tick then
    redis.call('HSET', ticks, check .. ':grace', text(now + lease))
    return true
  end
  local grace = tonumber(redis.call('HGET', ticks, check .. ':grace') or '0')
  return now < grace and grace <= now + lease
end

-- Shorten leases that end after `latest`. After a step back of the clock they would be longer by the step, and dead holders
-- would be detected that much later.
local function shorten_leases(leases_key, latest, limit)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', leases_key, '(' .. text(latest), '+inf', 'LIMIT', 0, limit)) do
    redis.call('ZADD', leases_key, text(latest), member)
  end
end

-- Return a task to the attempt whose lease has expired, unless the task was started again since, so that its work is not lost.
-- Return true if `token` holds the lease afterwards.
-- keys: retry_queue, leases, deadlines
local function readopt(task_key, token, lease_end)
  local state, lost_token, entry, was_spared =
    unpack(redis.call('HMGET', task_key, 'state', 'lost_token', 'entry', 'noted'))
  if state ~= 'queued' or lost_token ~= token then return false end
  local member, task_id = names_of(task_key)
  if is_in_lane(entry) then
    leave_lane(entry, task_id)
    enter_key(entry) -- which may exceed the limit of the key by this task
  else
    drop(retry_queue, 'agents', entry)
  end
  redis.call('HSET', task_key, 'state', 'running', 'token', token)
  redis.call('HDEL', task_key, 'lost_token', 'entry', 'noted', 'silent')
  if was_spared then
    redis.call('HINCRBY', task_key, 'attempts', 1)
    redis.call('ZREM', deadlines, member)
  else
    redis.call('HINCRBY', task_key, 'lost', -1)
  end
  redis.call('ZADD', leases, text(lease_end), member)
  count_move('queued', 'running')
  return true
end

-- Record the end of a task's latest attempt in its history. A task that ended by its only attempt has no history, because the
-- outcome of the latest attempt is in the task itself. The task's field `history` tells that it has one, because the search for
-- a missing key costs more the more keys there are. Only note_try passes `tries`.
-- keys: task, history
local function note_attempt(ended, outcome, why, tries)
  local attempt, worker, started, place = unpack(redis.call('HMGET', task, 'attempts', 'worker', 'started', 'seq'))
  local record = cjson.encode({ attempt = tonumber(attempt), workerId = worker or '', outcome = outcome,
    startedAt = tonumber(started), endedAt = tonumber(ended), error = why, tries = tries })
  add_record(history, record, MAX_ATTEMPTS, place)
  redis.call('HSET', task, 'noted', 1, 'history', 1)
end

-- Return the error of an attempt whose worker did not renew its lease for `silent` seconds; nil if they are not known, because a
-- controller of an earlier version has reclaimed the task. store/codec.py has the same sentence, for attempts that are not recorded.
local function lost_error(worker, silent)
  return silent and 'worker ' .. (worker or '') .. ' did not renew the lease of the attempt for ' .. silent .. ' s' or nil
end

-- Record that the latest attempt was lost, in its history.
-- keys: task
local function note_lost(ended)
  note_attempt(ended, 'lost', lost_error(unpack(redis.call('HMGET', task, 'worker', 'silent'))))
end

-- Record a try that found the worker busy or not connected. Such tries may repeat every second for hours under the same attempt
-- number. Consecutive tries under one number share a record with their count, so that they do not displace other attempts.
-- keys: task, history
local function note_try(ended, outcome, why)
  local attempt, worker, has_history, place = unpack(redis.call('HMGET', task, 'attempts', 'worker', 'history', 'seq'))
  local latest = has_history and redis.call('LINDEX', history, -1)
  local record = latest and cjson.decode(latest)
  if not record or not record.tries or record.attempt ~= tonumber(attempt) then
    return note_attempt(ended, outcome, why, 1)
  end
  record.workerId, record.outcome, record.endedAt, record.error = worker or '', outcome, tonumber(ended), why
  record.tries = record.tries + 1
  local after = cjson.encode(record)
  redis.call('LSET', history, -1, after)
  add_record_bytes(place, #after - #latest)
  redis.call('HSET', task, 'noted', 1)
end

-- Add a try to the busy streak: tries in a row that found the worker busy (409, 429, 503) or not connected. The streak costs
-- an attempt for each maxBusySeconds that it lasts. Return true if the try that ends now costs an attempt, and the milliseconds
-- until the next try: the container's Retry-After, else the delay of the endpoint. Either ends with the maxBusySeconds, so that
-- no container can keep a task without an outcome. After a try that costs an attempt the endpoint's delay applies in full.
-- keys: task, endpoint
local function extend_busy_streak(now, delay_ms, retry_after_ms)
  local max_busy = tonumber(redis.call('HGET', endpoint, 'max_busy') or '900') * 1000
  local since = tonumber(redis.call('HGET', task, 'busy_since') or '')
  if not since or since > now then since = now end -- a time in the future is from before a step back of the clock
  local is_over = now - since >= max_busy
  if is_over then since = now end
  redis.call('HSET', task, 'busy_since', text(since))
  redis.call('HINCRBY', task, 'busy_tries', 1)
  local left = since + max_busy - now
  return is_over, math.min(retry_after_ms or delay_ms, is_over and math.max(left, delay_ms) or left)
end

-- keys: task
local function end_busy_streak()
  redis.call('HDEL', task, 'busy_since', 'busy_tries')
end

-- Remove a waiting task from its queue, its lane or the sets of waiting tasks. Both queues may have an entry with the same id, made
-- in the same millisecond, so the entry's task is compared.
-- keys: task, queue, retry_queue, due, deadlines
local function stop_waiting()
  local member, task_id = names_of(task)
  local entry = redis.call('HGET', task, 'entry')
  local is_laned = entry and is_in_lane(entry)
  if is_laned then leave_lane(entry, task_id) end
  for _, stream in ipairs(entry and not is_laned and { queue, retry_queue } or {}) do
    local found = redis.call('XRANGE', stream, entry, entry)[1]
    if found and found[2][2] == task_id then drop(stream, 'agents', entry) end
  end
  redis.call('ZREM', due, member)
  redis.call('ZREM', deadlines, member)
end

-- Store the result of a task that ends. The body has the spec and the input. A small result is appended to a small body, which
-- saves a key for each task. A result that exists already, at `place`, is replaced. Return the fields and values by which the
-- task refers to it.
-- keys: body, result
local function keep_result(value, expiry, place)
  local may_join = place or #value <= MAX_JOINED_BYTES
  local front = may_join and redis.call('GETRANGE', body, 0, place and place - 1 or MAX_JOINED_BYTES) or ''
  if front == '' or #front > MAX_JOINED_BYTES then
    redis.call('SET', result, value, 'PX', expiry)
    redis.call('PEXPIRE', body, expiry)
    return
  end
  redis.call('SET', body, front .. value, 'PX', expiry)
  return 'result_at', #front
end

-- Return the result of an ended task, or its first `limit` bytes.
-- keys: task, body, result
local function read_result(limit)
  local place = redis.call('HGET', task, 'result_at')
  local first = place or 0
  return redis.call('GETRANGE', place and body or result, first, limit and first + limit - 1 or -1)
end

-- Return the error of a failed task; empty for any other task.
-- keys: task
local function read_error()
  local state = redis.call('HGET', task, 'state')
  return TERMINAL[state] and state ~= 'succeeded' and read_result() or ''
end

-- Return true if strings of JSON are in the text, which follows the status of a response: in an object or a list, or as all of it. The
-- end of a long one is cut off.
local function has_json_strings(text)
  if string.find(text, '[{%[] ?"') then return true end
  return string.find(string.gsub(text, '\\.', ''), '^:? ?"[^"]*"? ?$') ~= nil
end

-- Return the text that errors of one cause have in common, at most 200 bytes of the error's first 256. Numbers, words of hexadecimal
-- digits, UUIDs and quoted parts become `#`. The status of the container's response stays, because it tells causes apart, and so do
-- the strings of JSON, which are the message of most containers.
local function signature_of(message)
  local text = string.gsub(string.sub(message, 1, 256), '[%c%s]+', ' ')
  local status, rest = string.match(text, "^(the worker's container answered %d%d%d)(.*)$")
  if not status then status, rest = string.match(text, '^ ?(HTTP %d%d%d)(.*)$') end
  text = rest or text
  if not has_json_strings(text) then
    text = string.gsub(string.gsub(string.gsub(text, '"[^"]*"', '"#"'), '`[^`]*`', '`#`'), "([ (=:])'[^']*'", "%1'#'")
  end
  local four = '%x%x%x%x'
  text = string.gsub(text, four .. four .. '%-' .. four .. '%-' .. four .. '%-' .. four .. '%-' .. four .. four .. four, '#')
  -- The pattern is linear in the length of the text: one for words with a digit would try each part of a long word.
  text = string.gsub(text, '%w+', function(word)
    if not string.find(word, '%d') then return nil end
    local is_hexadecimal = #word >= 6 and string.find(word, '^%x+$') or string.find(word, '^0[xX]%x+$')
    return is_hexadecimal and '#' or string.gsub(word, '%d+', '#')
  end)
  text = (status or '') .. string.gsub(text, '#[#%.,:%-]*#', '#')
  local is_cut = #message > 256 or #text > 200
  text = string.match(string.sub(text, 1, 200), '^ *(.-) *$')
  if is_cut then text = string.gsub(text, '[\194-\244]?[\128-\191]*$', '') end
  return text == '' and 'no error text' or text
end

-- Return the task's spec, as stored.
-- keys: task, body
local function read_spec()
  return redis.call('GETRANGE', body, 0, tonumber(redis.call('HGET', task, 'spec')) - 1)
end

-- Return the destination of the task's webhook. The task's field `webhook` is the destination, or 1 when the destination is long
-- or an older version has accepted the task. Then the destination is in the spec, which has `length` bytes.
-- keys: body
local function destination_of(webhook, length)
  if webhook ~= '1' then return webhook end
  local is_spec, spec = pcall(cjson.decode, redis.call('GETRANGE', body, 0, tonumber(length or 0) - 1))
  local destination = is_spec and spec.destination
  return type(destination) == 'string' and destination or ''
end

-- Return the milliseconds until the first delivery of a set of waiting ones is due, among those with a time from `first` on; false
-- without one.
local function next_due(waiting, first, now)
  local found = redis.call('ZRANGEBYSCORE', waiting, first, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return found[2] and math.max(0, tonumber(found[2]) - now) or false
end

-- Return the id of a delivery from its key.
local function id_of_delivery(delivery_key)
  return string.match(delivery_key, ':w:(.+)$')
end

-- Return the sealed secrets that sign the endpoint's webhooks, the newest first: the current one, and those that it has
-- replaced, each until its time.
-- keys: endpoint
local function signing_secrets()
  local current, replaced = unpack(redis.call('HMGET', endpoint, 'signing', 'signing_replaced'))
  local secrets = { current or nil }
  if replaced then
    local now = now_ms()
    for secret, expires in string.gmatch(replaced, '(%S+) (%d+)') do
      if tonumber(expires) > now then secrets[#secrets + 1] = secret end
    end
  end
  return secrets
end

-- Create a delivery, with more fields and values if given, and add it to the outbox.
-- keys: delivery, outbox
local function begin_delivery(destination, created, ...)
  local entry = redis.call('XADD', outbox, '*', 'd', id_of_delivery(delivery), 'h', destination)
  redis.call('HSET', delivery, 'entry', entry, 'attempts', 0, 'created', created, 'destination', destination, ...)
end

-- Create the delivery of a task's result. It is marked as counted, because processes of an earlier version do not count theirs.
local function begin_counted_delivery(destination, created)
  begin_delivery(destination, created, 'counted', 1)
  add_use('deliveries', 1)
end

-- Remove the delivery of a task's result, if there is one. `is_counted` is its mark.
-- keys: delivery
local function end_delivery(is_counted)
  redis.call('DEL', delivery)
  if is_counted then add_use('deliveries', -1) end
end

-- Let the task keep the delivery of its result while it waits. A key for each waiting delivery would take about 130 bytes more.
-- keys: delivery, task
local function keep_delivery(created, attempts, trigger, operation)
  local kept = created .. ' ' .. attempts
  if trigger or operation then kept = kept .. ' ' .. (trigger or '') .. ' ' .. (operation or '') end
  redis.call('DEL', delivery)
  redis.call('HSET', task, 'kept_delivery', kept)
end

-- Give the delivery of a task's result, if the task keeps it, its own key again.
-- keys: delivery, task
local function restore_delivery()
  local kept = redis.call('HGET', task, 'kept_delivery')
  if not kept then return end
  local created, attempts, trigger, operation = string.match(kept, '^(%d+) (%d+) ?(%S*) ?(%S*)$')
  redis.call('HDEL', task, 'kept_delivery')
  redis.call('HSET', delivery, 'created', created, 'attempts', attempts, 'counted', 1)
  if trigger ~= '' then redis.call('HSET', delivery, 'trigger', trigger) end
  if operation ~= '' then redis.call('HSET', delivery, 'operation', operation) end
end

-- Put the task into the index of deliveries that were given up, which is kept as long as its tasks. Return 1 if it was not there.
-- keys: task, given_up
local function index_given_up(at)
  local _, task_id = names_of(task)
  local added = redis.call('ZADD', given_up, at, task_id)
  local ttl = math.max(redis.call('PTTL', given_up), redis.call('PTTL', task))
  if ttl > 0 then redis.call('PEXPIRE', given_up, text(ttl)) end
  return added
end

-- Give up the delivery of a task's result. It counts as given up after the end of the recovered period, so that no recovery sends
-- it again that has sent it before.
-- keys: task, recovery
local function give_up(now, reason)
  redis.call('HDEL', task, 'next_delivery', 'delivery_parked')
  redis.call('HSET', task, 'delivery', 'MAX_RETRIES_EXCEEDED', 'updated', text(now), 'delivery_error', reason)
  index_given_up(text(math.max(now, tonumber(redis.call('HGET', recovery, 'upto') or '0') + 1)))
end

-- Remove the task from the index of deliveries that were given up.
-- keys: task, given_up
local function leave_given_up()
  local _, task_id = names_of(task)
  redis.call('ZREM', given_up, task_id)
end

-- Return the destination of the delivery of a task's result; nil when neither the delivery nor the task has one, because the task's
-- data has expired. A delivery that has waited has none of its own.
-- keys: delivery, task
local function result_destination()
  local destination = redis.call('HGET', delivery, 'destination')
  if destination then return destination end
  local webhook, spec = unpack(redis.call('HMGET', task, 'webhook', 'spec'))
  return webhook and destination_of(webhook, spec) or nil
end

-- Add the delivery of an ended task's result to the outbox: one that waits with its next attempt, one that has ended with all.
-- keys: delivery, outbox, outbox_due, outbox_parked
local function add_to_outbox(now)
  local destination, delivery_id = result_destination(), id_of_delivery(delivery)
  restore_delivery()
  if redis.call('EXISTS', delivery) == 0 then return begin_counted_delivery(destination, text(now)) end
  redis.call('ZREM', outbox_due, delivery_id)
  redis.call('ZREM', outbox_parked, delivery_id)
  redis.call('HSET', delivery, 'entry', redis.call('XADD', outbox, '*', 'd', delivery_id, 'h', destination))
end

-- Count a delivered result as not delivered until its receiver accepts it again.
-- keys: task, counts, finished_success, finished_delivered
local function undo_delivered(now)
  local state, fin, seq = unpack(redis.call('HMGET', task, 'state', 'fin', 'seq'))
  redis.call('HDEL', task, 'delivered')
  if state ~= 'succeeded' then return end
  local _, task_id = names_of(task)
  local bytes = bytes_in(index_remove('delivered', finished_delivered, fin), 'delivered')
  redis.call('HSET', task, 'fin', index_again('success', finished_success, now, 't', task_id, 'n', seq, 'b', bytes))
  redis.call('HINCRBY', counts, 'delivered', -1)
  redis.call('HINCRBY', counts, 'success', 1)
end

-- Status of a delivery that is to be sent again, by the status that it had.
local SENT_AGAIN = { SUCCESS = 'INIT', MAX_RETRIES_EXCEEDED = 'FAILED' }

-- Make the delivery of an ended task's result due now, for an operation if its id is given. The task's data is kept at least as long
-- as after its end.
-- keys: task, body, result, history, attempts_log, delivery
local function deliver_now(trigger, operation_id)
  local now, status = now_ms(), redis.call('HGET', task, 'delivery')
  add_to_outbox(now)
  redis.call('HSET', delivery, 'trigger', trigger)
  if operation_id then
    redis.call('HSET', delivery, 'operation', operation_id)
  else
    redis.call('HDEL', delivery, 'operation')
  end
  if status == 'SUCCESS' then undo_delivered(now) end
  leave_given_up()
  redis.call('HDEL', task, 'delivery_error', 'delivery_parked')
  redis.call('HSET', task, 'delivery', SENT_AGAIN[status] or status, 'next_delivery', text(now), 'updated', text(now))
  local ttl = text(math.max(redis.call('PTTL', task), EXPIRY_SLACK_MS))
  for _, key in ipairs({ task, body, result, attempts_log, history }) do redis.call('PEXPIRE', key, ttl) end
end

-- Return the retention of the endpoint's tasks in milliseconds.
-- keys: endpoint
local known_retention
local function task_retention()
  known_retention = known_retention or tonumber(redis.call('HGET', endpoint, 'retention') or '0') * 1000
  return known_retention
end

-- Return the fields of a task that its end needs, in a table: those for `record_end`, and from the eleventh on those for finish.lua.
-- keys: task
local function read_to_end()
  return redis.call('HMGET', task, 'seq', 'webhook', 'lost_token', 'noted', 'history', 'result_at', 'spec', 'entry', 'ahead',
    'watchers', 'state', 'token', 'created', 'started', 'run_at')
end

-- Record the end of a task, except what `complete_ends` records for all tasks in `ended`, which it is added to. `value` is its
-- output or its error. A task that waits after a lost lease has the attempt's `lost_token`, and `noted` when that attempt costs
-- nothing. `facts` is what `read_to_end` has returned, if the task has not changed since. The processes that watch the task (see
-- watch.lua) get a message.
-- keys: task, body, history, finished_success, finished_failed
local function record_end(ended, at, state, value, facts)
  local member, task_id = names_of(task)
  local status, stream = 'failed', finished_failed
  if state == 'succeeded' then status, stream = 'success', finished_success end
  local seq, webhook, lost_token, noted, has_history, place, spec, entry, ahead, watchers = unpack(facts or read_to_end())
  local destination = webhook and destination_of(webhook, spec)
  local is_lost = lost_token and not noted
  if is_lost then note_lost(redis.call('HGET', task, 'updated')) end
  -- Let the data expire even if the retention job never runs again.
  local expiry = task_retention() + EXPIRY_SLACK_MS
  redis.call('PEXPIRE', task, expiry)
  if has_history or is_lost then redis.call('PEXPIRE', history, expiry) end
  local field, length = keep_result(value, expiry, place)
  -- The entry keeps the bytes, so that they can be subtracted when the task's data has expired.
  local bytes = (length or redis.call('STRLEN', body)) + TASK_BYTES + #value
  local number = index_add(status, stream, at, 't', task_id, 'n', seq, 'b', bytes)
  if field then
    redis.call('HSET', task, 'state', state, 'finished', at, 'updated', at, 'fin', number, field, length)
  else
    redis.call('HSET', task, 'state', state, 'finished', at, 'updated', at, 'fin', number)
  end
  if entry or lost_token or ahead or watchers then
    redis.call('HDEL', task, 'entry', 'lost_token', 'silent', 'ahead', 'watchers')
  end
  if webhook then
    begin_counted_delivery(destination, at)
    redis.call('HSET', task, 'delivery', 'INIT')
  end
  -- With pcall, because an agent whose user has the rules of an earlier version may not publish. The end is recorded without it.
  for process in string.gmatch(watchers or '', '%S+') do
    redis.pcall('SPUBLISH', string.match(task, '^[^:]+') .. ':told:' .. process, 'x ' .. member)
  end
  local group = ended[status] or { bytes = 0, members = {}, ids = {}, lanes = {} }
  ended[status], group.bytes = group, group.bytes + #value
  group.members[#group.members + 1], group.ids[#group.ids + 1] = member, task_id
  local lane = uses_lanes() and redis.call('HGET', task, 'lane')
  if lane then group.lanes[#group.lanes + 1] = lane end
end

-- Count tasks that have ended, which were counted in the state `from`, and remove them from the sets of tasks that have not.
-- keys: leases, live, counts, partition_counts, endpoint, due_purges
local function complete_ends(ended, at, from)
  for status, group in pairs(ended) do
    local number = #group.ids
    redis.call('ZREM', leases, unpack(group.members))
    redis.call('ZREM', live, unpack(group.ids))
    add_use('bytes', group.bytes)
    for _, lane in ipairs(from == 'running' and group.lanes or {}) do leave_key(lane) end
    redis.call('HINCRBY', counts, from, -number)
    redis.call('HINCRBY', partition_counts, from, -number)
    -- The first task with a status expires before all others that get it, so these need no command.
    if redis.call('HINCRBY', counts, status, number) == number then
      redis.call('ZADD', due_purges, 'LT', text(at + task_retention() + 1), id_of_endpoint(endpoint))
    end
  end
end

-- End a task, which is counted in the state `from`. `value` is its output or its error.
local function end_task(at, from, state, value)
  local ended = {}
  record_end(ended, at, state, value)
  complete_ends(ended, at, from)
end

-- Remove the index entry, the counts and the delivery of an ended task, before it is queued again or deleted.
-- keys: task, counts, finished_success, finished_delivered, finished_failed, outbox, outbox_due, outbox_parked, delivery
local function undo_end()
  local state, delivered, fin, kept = unpack(redis.call('HMGET', task, 'state', 'delivery', 'fin', 'kept_delivery'))
  local status, stream = 'failed', finished_failed
  if state == 'succeeded' then
    status, stream = 'success', finished_success
    if delivered == 'SUCCESS' then status, stream = 'delivered', finished_delivered end
  end
  local bytes = bytes_in(index_remove(status, stream, fin), status)
  if bytes > 0 then add_use('bytes', -bytes) end
  redis.call('HINCRBY', counts, status, -1)
  local entry, is_counted = unpack(redis.call('HMGET', delivery, 'entry', 'counted'))
  if entry then drop(outbox, 'delivery', entry) end
  local delivery_id = id_of_delivery(delivery)
  redis.call('ZREM', outbox_due, delivery_id)
  redis.call('ZREM', outbox_parked, delivery_id)
  end_delivery(is_counted or kept)
  leave_given_up()
end

-- Remove the current status event of a worker, and make the next event due. Events older than `max_age` are skipped.
-- keys: events, removed_events, counts, delivery
local function next_event(max_age)
  local now, event = now_ms(), nil
  repeat
    redis.call('LPOP', events)
    redis.call('HINCRBY', counts, 'events', -1)
    local following = redis.call('LINDEX', events, 0)
    event = following and cjson.decode(following)
  until not event or now - tonumber(event.at) <= max_age
  if not event then
    redis.call('DEL', delivery)
    redis.call('ZREM', removed_events, (last_name_of(events)))
    return
  end
  begin_delivery(event.destination, event.at)
  redis.call('HDEL', delivery, 'owner')
end

-- Limit of waiting events of a worker. Above it the oldest event that is not being sent is dropped, so that a worker that
-- crashes repeatedly does not fill the store while its webhook is unavailable.
local MAX_EVENTS = 100

-- Note that a worker has been removed whose events wait, so that they can be dropped.
-- keys: events, removed_events
local function note_removal(now)
  if redis.call('LINDEX', events, 0) then redis.call('ZADD', removed_events, text(now), (last_name_of(events))) end
end

-- Note that there is a worker of this name again.
-- keys: events, removed_events
local function note_return()
  redis.call('ZREM', removed_events, (last_name_of(events)))
end

-- Limit of an endpoint's waiting events above which those of removed workers are dropped, the longest removed worker's first, so
-- that workers that come and go do not fill the store while the webhook is unavailable. The events of other workers are limited
-- by MAX_EVENTS and the number of workers.
local MAX_ENDPOINT_EVENTS = 10000

-- Limit of removed workers whose events one call drops.
local MAX_DROPPED_WORKERS = 10

-- Drop the events of removed workers while the endpoint has too many. A delivery that is being sent ends as fenced. The keys of
-- these workers differ from those of the script's worker in the name alone. `due` and `parked` are the sets of the deliveries that
-- wait. Return the number of dropped events.
-- keys: events, removed_events, counts, delivery, outbox
local function drop_surplus_events(due, parked)
  local _, of_events = last_name_of(events)
  local _, of_deliveries = last_name_of(delivery)
  local dropped = 0
  for _ = 1, MAX_DROPPED_WORKERS do
    if tonumber(redis.call('HGET', counts, 'events') or '0') <= MAX_ENDPOINT_EVENTS then break end
    local name = redis.call('ZPOPMIN', removed_events)[1]
    if not name then break end
    local its_delivery = of_deliveries .. name
    local entry = redis.call('HGET', its_delivery, 'entry')
    if entry then drop(outbox, 'delivery', entry) end
    redis.call('ZREM', due, id_of_delivery(its_delivery))
    redis.call('ZREM', parked, id_of_delivery(its_delivery))
    redis.call('DEL', its_delivery)
    local events_of_it = redis.call('LPOP', of_events .. name, MAX_EVENTS) or {}
    redis.call('HINCRBY', counts, 'events', -#events_of_it)
    dropped = dropped + #events_of_it
  end
  return dropped
end

-- Change a worker's status. Every change is an event for the endpoint's webhook. The events of a worker are sent one after the
-- other, so that they arrive in order.
-- keys: worker, workers, endpoint, events, counts
local function change_status(status, reason)
  local before = redis.call('HGET', worker, 'status')
  if before == status then return end
  check_now()
  if before then count_workers(before, -1) end
  count_workers(status, 1)
  local now = text(now_ms())
  redis.call('HSET', worker, 'status', status, 'updated', now)
  redis.call('HSET', workers, string.match(worker, ':wk:[^:]+:(.+)$'), status)
  local webhook, destination = unpack(redis.call('HMGET', endpoint, 'webhook', 'webhook_destination'))
  if not webhook or webhook == '' then return end
  local event = { number = redis.call('HINCRBY', worker, 'events', 1), status = status, at = now, url = webhook,
    destination = destination, reason = reason, previous = before or '',
    created = redis.call('HGET', worker, 'created') }
  local waiting = redis.call('RPUSH', events, cjson.encode(event))
  if waiting > MAX_EVENTS then
    local first = redis.call('LPOP', events, 2)[1]
    redis.call('LPUSH', events, first)
  else
    redis.call('HINCRBY', counts, 'events', 1)
  end
  if waiting == 1 then begin_delivery(destination, now) end
end

-- Return true if the key of a request is still valid for the tenant, with the role and endpoints that it was admitted with.
local function is_still_valid(own_key, tenant, role, endpoints)
  local owner, unlimited_owner, stored_role, stored_endpoints, expires =
    unpack(redis.call('HMGET', own_key, 'owner', 'tenant', 'role', 'endpoints', 'expires'))
  return (owner or unlimited_owner) == tenant and (stored_role or 'admin') == role and (stored_endpoints or '') == endpoints
    and (not expires or tonumber(expires) > now_ms())
end

-- Remember that a key has ended, so that it is not stored as an unlimited key again. Only the latest ended keys of a tenant and
-- the first keys of processes are remembered, so that creating and revoking keys does not fill the store.
local function remember_end(key_hash, revoked, ended, configured)
  redis.call('SADD', revoked, key_hash)
  redis.call('ZADD', ended, text(now_ms()), key_hash)
  local beyond = redis.call('ZCARD', ended) - MAX_ENDED_KEYS
  if beyond <= 0 then return end
  local oldest = redis.call('ZPOPMIN', ended, beyond)
  for index = 1, #oldest, 2 do
    if redis.call('SISMEMBER', configured, oldest[index]) == 0 then redis.call('SREM', revoked, oldest[index]) end
  end
end

-- Cancel a task. A waiting task ends at once, a running one by its agent. Return the reply of cancel.lua.
-- keys: task, cancel_requests
local function cancel_task(call_id)
  local state, attempts, base, call, worker =
    unpack(redis.call('HMGET', task, 'state', 'attempts', 'base', 'cancel', 'worker'))
  if not state then return 'GONE' end
  if TERMINAL[state] then return state == 'cancelled' and call == call_id and 'CANCELLED' or 'ENDED' end
  if state == 'running' then
    if call and call ~= call_id then return 'REPEATED' end
    redis.call('HSET', task, 'cancel', call_id)
    redis.call('XADD', cancel_requests, 'MAXLEN', '~', MAX_CANCEL_REQUESTS, '*', 't', (names_of(task)), 'w', worker or '')
    redis.call('PEXPIRE', cancel_requests, CANCEL_REQUESTS_MS)
    return 'REQUESTED'
  end
  stop_waiting()
  redis.call('HSET', task, 'cancel', call_id)
  local has_run = tonumber(attempts) ~= tonumber(base or '0')
  end_task(now_ms(), state, 'cancelled', has_run and CANCELLED_WHILE_WAITING or CANCELLED_BEFORE_IT_STARTED)
  return 'CANCELLED'
end

-- Queue an ended task again with fresh budgets. Its result and the delivery of the result are removed. Return the reply of
-- rerun.lua.
-- keys: task, body, result, history, attempts_log, counts, endpoint, live
local function run_task_again(call_id)
  local state, call, attempts, started, noted, seq, place, lane =
    unpack(redis.call('HMGET', task, 'state', 'call', 'attempts', 'started', 'noted', 'seq', 'result_at', 'lane'))
  if not state then return 'GONE' end
  if call == call_id then return 'ALREADY' end
  if not TERMINAL[state] then return 'BUSY' end
  local desired, failed, max_queued = unpack(redis.call('HMGET', endpoint, 'wanted', 'failed', 'max_queued'))
  if desired == 'deleted' then return 'GONE' end
  if desired ~= 'running' or failed == '1' then return 'CLOSED' end
  local waiting = redis.call('HMGET', counts, 'queued', 'scheduled')
  if (tonumber(waiting[1]) or 0) + (tonumber(waiting[2]) or 0) >= tonumber(max_queued) then return 'FULL' end
  if started and not noted then
    local why = nil
    if state ~= 'succeeded' then why = read_result(MAX_WHY_BYTES) end
    note_attempt(redis.call('HGET', task, 'finished'), OUTCOME[state], why)
  end
  undo_end()
  if place then
    redis.call('SET', body, redis.call('GETRANGE', body, 0, place - 1))
  else
    redis.call('DEL', result)
  end
  add_use('bytes', redis.call('STRLEN', body) + TASK_BYTES)
  for _, key in ipairs({ task, body, history, attempts_log }) do redis.call('PERSIST', key) end
  -- Remove the deadline too, because it counted from the first submission and would expire the task.
  redis.call('HDEL', task, 'deadline', 'ttl', 'run_at', 'finished', 'fin', 'result_at', 'token', 'retry_token', 'cancel', 'resets',
    'busy_since', 'busy_tries', 'spared', 'delivery', 'delivery_attempts', 'delivery_error', 'delivered', 'next_delivery',
    'delivery_parked', 'kept_delivery')
  local _, task_id = names_of(task)
  redis.call('HSET', task, 'state', 'queued', 'entry', queue_as_new(lane, task_id), 'updated', text(now_ms()), 'lost', 0,
    'base', attempts, 'call', call_id)
  redis.call('HINCRBY', task, 'runs', 1)
  redis.call('ZADD', live, seq, task_id)
  count_move(nil, 'queued')
  ring_bell()
  return 'OK'
end

-- Remove an ended task with all its data. A delivery of its result that has not ended is dropped. Return the reply of
-- delete_task.lua.
-- keys: task, body, result, history, attempts_log, created, tags, tagged
local function remove_task()
  local state, seq = unpack(redis.call('HMGET', task, 'state', 'seq'))
  if not state then return 'GONE' end
  if not TERMINAL[state] then return 'BUSY' end
  undo_end()
  index_remove('all', created, seq)
  local _, task_id = names_of(task)
  remove_tags(seq, task_id)
  redis.call('DEL', task, body, result)
  forget_records(seq, { history, attempts_log })
  if not correct_use() then redis.call('UNLINK', tags, tagged) end
  return 'OK'
end

-- Kinds of results of an operation, by the result for a task. All others mean that the task was skipped.
local OPERATION_RESULT = { OK = 'done', CANCELLED = 'done', REQUESTED = 'done', ERROR = 'failed' }

-- Return true if one of these words is the given one; also if there are no words.
local function is_one_of(words, given)
  for _, word in ipairs(words) do
    if word == given then return true end
  end
  return #words == 0
end

-- Return why an operation does not change a task, although it has found it; nil if it changes it. `matched` is the time at which
-- the task had ended when it was found, 0 if it had not, and -1 for a given task. A task that has ended or was queued again since
-- then, or whose result was delivered or given up, may no longer be what the client has asked for.
-- keys: task
local function reason_to_skip(matched, upto, is_for_ended, states, delivery_statuses)
  local state, seq, finished, status = unpack(redis.call('HMGET', task, 'state', 'seq', 'finished', 'delivery'))
  if not state then return 'GONE' end
  if tonumber(seq) > tonumber(upto) then return 'NEWER' end
  if is_for_ended ~= (TERMINAL[state] or false) then return is_for_ended and 'BUSY' or 'ENDED' end
  local is_same = matched == -1 or matched == tonumber(finished or '0')
  -- No status is part of another.
  local has_status = delivery_statuses == '' or string.find(delivery_statuses, status or 'INIT', 1, true)
  return not (is_same and has_status and is_one_of(states, state)) and 'CHANGED' or nil
end

-- Note a given id of which there is no task, if there is room for it.
local function note_unknown(operation, task_id)
  local noted = redis.call('HGET', operation, 'unknown')
  noted = noted and noted .. ' ' .. task_id or task_id
  if #noted <= MAX_UNKNOWN_BYTES then redis.call('HSET', operation, 'unknown', noted) end
end

-- Change a task for an operation, and count the result, both once: the task leaves `todo` in the same script. `change` is the
-- function of the transition. Return the result; nil if the operation has ended, or the task has been changed. A task for which
-- the queue has no room, or whose endpoint is closed, stays in `todo`. A dry operation changes no task. `reason`, if given, is a
-- function that returns why the task is skipped besides.
-- keys: task
local function change_in_operation(operation, todo, change, is_for_ended, states, delivery_statuses, reason)
  local state, upto, is_dry, call_id = unpack(redis.call('HMGET', operation, 'state', 'upto', 'dry', 'call'))
  local _, task_id = names_of(task)
  local matched = tonumber(redis.call('ZSCORE', todo, task_id) or '')
  if state ~= 'running' or not matched then return nil end
  local result, why = reason_to_skip(matched, upto, is_for_ended, states, delivery_statuses), nil
  result = result or (reason and reason()) or 'OK'
  if result == 'OK' and is_dry ~= '1' then result, why = unpack(results_of(pcall(change, call_id))) end
  if result == 'FULL' or result == 'CLOSED' then return result end
  redis.call('ZREM', todo, task_id)
  if matched == -1 and result == 'GONE' then
    note_unknown(operation, task_id)
  elseif matched == -1 then
    redis.call('HINCRBY', operation, 'matched', 1)
  end
  local kind = OPERATION_RESULT[result]
  redis.call('HINCRBY', operation, kind or 'skipped:' .. string.lower(result), 1)
  if why then redis.call('HSET', operation, 'error', string.sub(why, 1, MAX_WHY_BYTES)) end
  return result
end
