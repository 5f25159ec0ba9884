-- Read how many tasks wait at an endpoint, and for how long.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: endpoint, counts, workers, ring_high, ring_normal, ring_low, parked, lanes
-- replies:
--   OK: depth integer (queued and scheduled tasks), oldest_ms optional integer (when the oldest task was queued, in lanes only the
--     first one of the lane that is served next at each level; none without a queued task, and for an endpoint that should not
--     work), should_work flag (unless it is stopped or paused, or has no workers and should have none), is_paused flag,
--     open_lanes integer (with waiting tasks, the parked ones left out), parked_lanes integer, paused_ms optional integer (when the
--     queue was paused)
local queued, scheduled = unpack(redis.call('HMGET', counts, 'queued', 'scheduled'))
queued, scheduled = tonumber(queued or '0'), tonumber(scheduled or '0')
local desired, desired_workers, paused, paused_at =
  unpack(redis.call('HMGET', endpoint, 'wanted', 'workers', 'paused', 'paused_at'))
local should_work = desired == 'running' and paused ~= '1' and (desired_workers ~= '0' or redis.call('HLEN', workers) > 0)
local oldest = queued > 0 and should_work and oldest_queued()
local open_lanes = -redis.call('HEXISTS', lanes, 's:1') -- the turn of the plain queues is no lane
for _, ring in ipairs({ ring_high, ring_normal, ring_low }) do open_lanes = open_lanes + redis.call('LLEN', ring) end
return { 'OK', queued + scheduled, oldest and text(oldest), should_work and 1 or 0, paused == '1' and 1 or 0,
  open_lanes, redis.call('SCARD', parked), paused_at }
