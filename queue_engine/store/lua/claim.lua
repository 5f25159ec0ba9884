-- Claim waiting tasks for an agent. While both plain queues have tasks, each gets half of the places, so that no queue waits until
-- the other one is empty. If tasks wait in lanes, every eighth place is first offered to the level normal and every sixty-fourth to
-- the level low, so that neither waits until the level above is empty; each other place is offered to the levels in their order.
-- The plain queues belong to the level normal. A repeated call returns the same entries. Does not wait for a task: an agent without
-- tasks waits for the bell, in the same write to the store (see bell.py).
-- An agent that hears the bell may get fewer tasks than wait, or none because another agent was faster. So a claim that is full
-- rings for the next agent, and one that leaves no task takes the bells that no agent has heard. While the queue is paused, no
-- task is claimed. With a rate limit, each claimed task takes a token from the endpoint's bucket, which is in its counts.
-- An agent that finds the bucket empty is asked to claim again after `wait_ms`, unless another agent was asked and the time has
-- not come. So an empty bucket costs one call for each token, however many agents wait.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, retry_queue, queue, bell, counts, turn, lane_entries, lanes, ring_high, ring_normal, ring_low,
--   parked
-- arguments: worker_id text, limit integer, is_turn_of_new flag (an odd place belongs to the new tasks),
--   retried_after optional text, new_after optional text, taken_after optional text (id of the latest entry of each stream that the
--     agent has received; none when it has received all that it has claimed, and does not repeat the call)
-- replies:
--   OK: retried entries, new entries, taken entries (out of lanes), wait_ms integer (the agent claims again after this time; 0: when
--     the bell rings)
local function read(stream, after, count)
  local found = count > 0
    and redis.call('XREADGROUP', 'GROUP', 'agents', worker_id, 'COUNT', count, 'STREAMS', stream, after)
  return found and found[1][2] or {}
end
local function claim(entries, stream, count)
  local found = read(stream, '>', count)
  for _, entry in ipairs(found) do entries[#entries + 1] = entry end
  return #found
end
local retried, new, taken = {}, {}, {}
-- The entries of a reply that was lost. Both queues are read before any claim, because a missing group is an error.
if retried_after then
  retried, new = read(retry_queue, retried_after, limit), read(queue, new_after, limit)
  if uses_lanes() then taken = read(turn, taken_after, limit) end
end
local paused, rate_limit = unpack(redis.call('HMGET', endpoint, 'paused', 'rate_limit'))
if paused == '1' then return { 'OK', retried, new, taken, 0 } end
local places = limit - #retried - #new - #taken
local now, tokens, per_second = nil, nil, nil
if (rate_limit or '') ~= '' and places > 0 then
  now = now_us()
  tokens, per_second = start_tokens(rate_limit, now)
  -- A millionth is added, because fractions are rounded.
  places = math.min(places, math.floor(tokens + 0.000001))
end

local function claim_plain(count)
  local share = math.floor((count + (is_turn_of_new and 0 or 1)) / 2)
  local claimed = claim(retried, retry_queue, share)
  local found = claimed + claim(new, queue, count - claimed)
  if claimed == share then found = found + claim(retried, retry_queue, count - found) end
  return found
end

-- Claim from the lanes and the plain queues. Return the number of claimed tasks, and true if lanes without a task that may begin were
-- looked at up to the limit, so that more tasks may wait.
local function claim_by_turns(count)
  local rings, spent, is_cut_off, looks, turns = { ring_high, ring_normal, ring_low }, {}, false, MAX_LOOKS_AT_LANES, 0
  -- First, because a missing group is an error, and nothing is delivered unless the group was missing.
  local found = claim(taken, turn, count)
  local number, key_limit = redis.call('HGET', lanes, 'turn'), redis.call('HGET', endpoint, 'key_limit')
  number, key_limit = tonumber(number or '0'), tonumber(key_limit or '') or 0

  local function claim_one_plain()
    is_turn_of_new = not is_turn_of_new
    return claim_plain(1) == 1
  end

  local function is_at_limit(key)
    return key_limit > 0 and key ~= '' and tonumber(redis.call('HGET', lanes, 'r:' .. key) or '0') >= key_limit
  end

  -- Take the first task of a lane. Return its entry and its id, and true if more tasks wait in the lane.
  local function take_first(lane)
    local entries = redis.call('ZRANGEBYLEX', lane_entries, '[' .. lane .. ' ', '(' .. lane .. '!', 'LIMIT', 0, 2)
    if not entries[1] then return end
    redis.call('ZREM', lane_entries, entries[1])
    local entry, task_id = string.match(entries[1], '^(%S+ %S+) (%S+)$')
    return entry, task_id, entries[2] ~= nil
  end

  local function serve_ring(level)
    local ring = rings[level]
    while looks > 0 do
      local key = redis.call('LPOP', ring)
      if not key then return false end
      local lane = level - 1 .. key
      if lane == '1' then -- the turn of the plain queues
        if redis.call('LLEN', ring) == 0 then
          redis.call('HDEL', lanes, 's:1')
          return false
        end
        redis.call('RPUSH', ring, '')
        if claim_one_plain() then return true end
      elseif is_at_limit(key) then
        redis.call('SADD', parked, lane)
      else
        local entry, task_id, has_more = take_first(lane)
        if has_more then redis.call('RPUSH', ring, key) else redis.call('HDEL', lanes, 's:' .. lane) end
        if entry then
          redis.call('XADD', turn, '*', 't', task_id, 'e', entry)
          enter_key(lane)
          turns = turns + 1
          return true
        end
      end
      looks = looks - 1
    end
    is_cut_off = true
    return false
  end

  local function serve(level)
    if spent[level] then return false end
    if serve_ring(level) or (level == 2 and claim_one_plain()) then return true end
    spent[level] = true
    return false
  end

  while found < count do
    local first = (number + 1) % 64 == 0 and 3 or (number + 1) % 8 == 0 and 2 or 1
    if not (serve(first) or serve(1) or serve(2) or serve(3)) then break end
    number, found = number + 1, found + 1
  end
  redis.call('HSET', lanes, 'turn', text(number))
  claim(taken, turn, turns)
  return found, is_cut_off
end

local found, is_cut_off = 0, false
if places > 0 and uses_lanes() and redis.call('EXISTS', ring_high, ring_normal, ring_low) > 0 then
  found, is_cut_off = claim_by_turns(places)
elseif places > 0 then
  found = claim_plain(places)
end
local left, wait_ms = places - found, 0
if tokens then keep_start_tokens(tokens - places + left, now) end
if tokens and places == 0 then
  redis.pcall('DEL', bell)
  -- With some slack, because the clock of the agent that was asked may be quicker.
  if tonumber(redis.call('HGET', counts, 'starts_asked') or '0') <= now + LIMITED_SLACK_MS * 1000 then
    wait_ms = math.min(MAX_LIMITED_MS, math.ceil((1 - tokens) * 1000 / per_second))
    redis.call('HSET', counts, 'starts_asked', text(now + wait_ms * 1000))
  end
elseif left > 0 and not is_cut_off then
  redis.pcall('DEL', bell)
else
  ring_bell()
end
return { 'OK', retried, new, taken, wait_ms }
