-- Put an entry back that an agent has read and cannot start: the task keeps waiting, behind no other. A task that was taken out of
-- a lane gets its place in it again. With a rate limit, the token of the start is put back too.
--
-- label: unread
-- flags: allow-oom
-- keys of a task: task, retry_queue, endpoint, turn
-- keys: stream (that the entry came from)
-- arguments:
--   entry_id text, is_compared flag (an entry of another task is left alone, because the agent may have made up the pair)
-- replies:
--   OK
--   STALE
if is_compared and is_of_another(stream, entry_id, task) then return { 'STALE' } end
local state, entry = unpack(redis.call('HMGET', task, 'state', 'entry'))
local place = stream == turn and place_in_lane(entry_id)
-- In a repeated call the entry no longer exists. Its id alone is not sufficient, because both queues may use it.
local was_there = drop(stream, 'agents', entry_id)
if was_there and place then leave_key(place) end
if not was_there or state ~= 'queued' or entry ~= (place or entry_id) then return { 'STALE' } end
local _, task_id = names_of(task)
if place then
  add_to_lane(lane_keys(), place, task_id)
else
  redis.call('HSET', task, 'entry', redis.call('XADD', retry_queue, '*', 't', task_id))
end
local now = now_us()
local tokens = start_tokens(redis.call('HGET', endpoint, 'rate_limit'), now)
if tokens then keep_start_tokens(tokens + 1, now) end
ring_bell()
return { 'OK' }
