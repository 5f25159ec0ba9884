-- Claim waiting tasks for an agent. While both queues have tasks, each gets half of the places, so that no queue waits until
-- the other one is empty. A repeated call returns the same entries. Does not wait for a task: an agent without tasks waits for
-- the bell, in the same write to the store (see bell.py).
-- An agent that hears the bell may get fewer tasks than wait, or none because another agent was faster. So a claim that is full
-- rings for the next agent, and one that leaves no task takes the bells that no agent has heard. While the queue is paused, no
-- task is claimed. With a rate limit, each claimed task takes a token from the endpoint's bucket, which is in its counts.
-- An agent that finds the bucket empty is asked to claim again after `wait_ms`, unless another agent was asked and the time has
-- not come. So an empty bucket costs one call for each token, however many agents wait.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, retry_queue, queue, bell, counts
-- arguments: worker_id text, limit integer, is_turn_of_new flag (an odd place belongs to the new tasks),
--   retried_after optional text, new_after optional text (id of the latest entry of each queue that the agent has received; none
--     when it has received all that it has claimed, and does not repeat the call)
-- replies:
--   OK: retried entries, new entries, wait_ms integer (the agent claims again after this time; 0: when the bell rings)
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
local retried, new = {}, {}
-- The entries of a reply that was lost. Both queues are read before any claim, because a missing group is an error.
if retried_after then retried, new = read(retry_queue, retried_after, limit), read(queue, new_after, limit) end
local paused, rate_limit = unpack(redis.call('HMGET', endpoint, 'paused', 'rate_limit'))
if paused == '1' then return { 'OK', retried, new, 0 } end
local places = limit - #retried - #new
local now, tokens, per_second = nil, nil, nil
if (rate_limit or '') ~= '' and places > 0 then
  now = now_us()
  tokens, per_second = start_tokens(rate_limit, now)
  -- A millionth is added, because fractions are rounded.
  places = math.min(places, math.floor(tokens + 0.000001))
end
local left = places
local share = math.floor((left + (is_turn_of_new and 0 or 1)) / 2)
local claimed = claim(retried, retry_queue, share)
left = left - claimed
left = left - claim(new, queue, left)
if claimed == share then left = left - claim(retried, retry_queue, left) end
local wait_ms = 0
if tokens then keep_start_tokens(tokens - places + left, now) end
if tokens and places == 0 then
  redis.pcall('DEL', bell)
  -- With some slack, because the clock of the agent that was asked may be quicker.
  if tonumber(redis.call('HGET', counts, 'starts_asked') or '0') <= now + LIMITED_SLACK_MS * 1000 then
    wait_ms = math.min(MAX_LIMITED_MS, math.ceil((1 - tokens) * 1000 / per_second))
    redis.call('HSET', counts, 'starts_asked', text(now + wait_ms * 1000))
  end
elseif left > 0 then
  redis.pcall('DEL', bell)
else
  ring_bell()
end
return { 'OK', retried, new, wait_ms }
