-- Read how many tasks wait at an endpoint, and for how long.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: endpoint, counts, workers, queue, retry_queue
-- replies:
--   OK: depth integer (queued and scheduled tasks), oldest_ms optional integer (when the oldest task was queued; none without a
--     queued task, and for an endpoint that should not work), should_work flag (unless it is stopped or paused, or has no
--     workers and should have none)
local queued, scheduled = unpack(redis.call('HMGET', counts, 'queued', 'scheduled'))
queued, scheduled = tonumber(queued or '0'), tonumber(scheduled or '0')
local desired, desired_workers, paused = unpack(redis.call('HMGET', endpoint, 'wanted', 'workers', 'paused'))
local should_work = desired == 'running' and paused ~= '1' and (desired_workers ~= '0' or redis.call('HLEN', workers) > 0)
local oldest = false
for _, stream in ipairs(queued > 0 and should_work and { queue, retry_queue } or {}) do
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local time = head and tonumber(string.match(head[1], '^%d+'))
  if time and (not oldest or time < oldest) then oldest = time end
end
return { 'OK', queued + scheduled, oldest and text(oldest), should_work and 1 or 0 }
