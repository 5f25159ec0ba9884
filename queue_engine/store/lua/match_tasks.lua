-- Find the tasks that match filters among tasks of an endpoint. A filter that needs a text of the task is compared last. The
-- texts that a call reads are limited, so that no call holds the server for long.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result
-- keys: more list (the same keys of each further task)
-- arguments: filters text (JSON: the values by name), limit integer (of matching tasks), shows flag (return their records too),
--   places list of text (of the tasks, in the order of creation)
-- replies:
--   OK: looked integer (the number of tasks, from the first, that were compared), matches list of list of bytes (of each that
--     matches: its index from 1; if shown, its spec, its error, and the fields and values of its record)
local MAX_READ_BYTES, SEARCHED_INPUT_BYTES = 1024 * 1024, 64 * 1024
-- Number of bytes in which a search takes as long as a signature.
local SIGNATURE_BYTES = 16 * 1024
local facts, bytes = {}, 0

local function status_of()
  local state = facts.state
  if not TERMINAL[state] then return 'PROCESSING' end
  if state ~= 'succeeded' then return 'FAILED' end
  return facts.delivery == 'SUCCESS' and 'DELIVERED' or 'SUCCESS'
end

local function contains(value, part)
  bytes = bytes + #value
  return string.find(value, part, 1, true) ~= nil
end

local function read_input()
  local first, last = tonumber(facts.spec), facts.result_at and tonumber(facts.result_at) - 1 or -1
  local limited = first + SEARCHED_INPUT_BYTES - 1
  return redis.call('GETRANGE', body, first, last >= 0 and math.min(last, limited) or limited)
end

-- Each filter has its name, the fields of the record that it needs, and its check of a value.
local CHECKS = {
  { 'state', { 'state' }, function(states) return states[facts.state] end },
  { 'status', { 'state', 'delivery' }, function(status) return status_of() == status end },
  { 'created_after', { 'created' }, function(time) return tonumber(facts.created) >= time end },
  { 'created_before', { 'created' }, function(time) return tonumber(facts.created) < time end },
  { 'finished_after', { 'finished' }, function(time) return facts.finished and tonumber(facts.finished) >= time end },
  { 'finished_before', { 'finished' }, function(time) return facts.finished and tonumber(facts.finished) < time end },
  { 'worker', { 'worker' }, function(worker) return facts.worker == worker end },
  -- A lane is the digit of a level and the key.
  { 'fairness_key', { 'lane' }, function(key) return facts.lane and string.sub(facts.lane, 2) == key end },
  { 'delivery_status', { 'delivery' }, function(status) return (facts.delivery or 'INIT') == status end },
  -- The tags of a task never change, so the index of tags, from which the tasks are read, decides alone.
  { 'tag', {}, function() return true end },
  { 'id_prefix', {}, function(prefix)
    local _, task_id = names_of(task)
    return string.sub(task_id, 1, #prefix) == prefix
  end },
  { 'destination', { 'webhook', 'spec' }, function(destination)
    return facts.webhook and destination_of(facts.webhook, facts.spec) == destination
  end },
  { 'error_contains', { 'state' }, function(part) return contains(read_error(), part) end },
  { 'error_signature', { 'state' }, function(signature)
    if not TERMINAL[facts.state] or facts.state == 'succeeded' then return false end
    bytes = bytes + SIGNATURE_BYTES
    return signature_of(read_result(257)) == signature
  end },
  { 'input', { 'spec', 'result_at' }, function(part) return contains(read_input(), part) end },
}

local given, checks, names = cjson.decode(filters), {}, { 'seq' }
if given.state then
  local states = {}
  for _, state in ipairs(given.state) do states[state] = true end
  given.state = states
end
for _, check in ipairs(CHECKS) do
  local name, fields, matches = unpack(check)
  if given[name] then
    checks[#checks + 1] = { matches, given[name] }
    for _, field in ipairs(fields) do names[#names + 1] = field end
    given[name] = nil
  end
end
if next(given) then error('a filter is unknown') end

local function does_match(place)
  for index, value in ipairs(redis.call('HMGET', task, unpack(names))) do facts[names[index]] = value end
  -- The task of an entry may have expired, and its id may have been submitted again since.
  if facts.seq ~= place then return false end
  for _, check in ipairs(checks) do
    if not check[1](check[2]) then return false end
  end
  return true
end

local matches, looked = {}, 0
for index, place in ipairs(places) do
  if index > 1 then task, body, result = unpack(more, index * 3 - 5, index * 3 - 3) end
  looked = index
  if does_match(place) then
    local match = { text(index) }
    if shows then
      match = { text(index), read_spec(), read_error(), unpack(redis.call('HGETALL', task)) }
      bytes = bytes + #match[2] + #match[3]
    end
    matches[#matches + 1] = match
  end
  if #matches >= limit or bytes >= MAX_READ_BYTES then break end
end
return { 'OK', looked, matches }
