-- Set the time at which an endpoint is purged next: when its next ended task expires, and soon while consumers are left. An earlier
-- time that was set since the endpoint was taken stays.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, due_purges
-- arguments: held_until_ms integer (see take_purges.lua), has_consumers flag (of ended agents, with entries that another agent must
--   claim first)
-- replies:
--   OK
local id, now = id_of_endpoint(endpoint), now_ms()
local next_time = redis.call('EXISTS', endpoint) == 1 and next_expiry(now) or nil
if has_consumers then next_time = math.min(next_time or now + CONSUMERS_MS, now + CONSUMERS_MS) end
local noted = tonumber(redis.call('ZSCORE', due_purges, id) or '')
if noted and noted < held_until_ms then next_time = math.min(next_time or noted, noted) end
if next_time then
  redis.call('ZADD', due_purges, text(next_time), id)
else
  redis.call('ZREM', due_purges, id)
end
return { 'OK' }
