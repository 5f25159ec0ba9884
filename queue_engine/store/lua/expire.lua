-- End a task that has waited until its deadline. A running task is not changed.
--
-- flags: allow-oom
-- keys of a task: task, deadlines
-- replies:
--   EXPIRED
--   OK (no change: the task is not at its deadline, or not waiting)
local now = now_ms()
local member = names_of(task)
local deadline = tonumber(redis.call('ZSCORE', deadlines, member) or '')
if deadline == nil or deadline > now then return { 'OK' } end
local state, ttl = unpack(redis.call('HMGET', task, 'state', 'ttl'))
if state ~= 'queued' and state ~= 'scheduled' then
  redis.call('ZREM', deadlines, member)
  return { 'OK' }
end
stop_waiting()
local seconds = string.format('%g', tonumber(ttl or '0'))
end_task(now, state, 'expired', 'the task waited for longer than its queue TTL of ' .. seconds .. ' s')
return { 'EXPIRED' }
