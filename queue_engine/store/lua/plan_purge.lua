-- Set the time at which an endpoint is purged next: when its next ended task expires, and soon while consumers are left.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, due_purges
-- arguments: has_consumers flag (of ended agents, with entries that another agent must claim first)
-- replies:
--   OK
local now = now_ms()
local next_time = redis.call('EXISTS', endpoint) == 1 and next_expiry(now) or nil
if has_consumers then next_time = math.min(next_time or now + CONSUMERS_MS, now + CONSUMERS_MS) end
if next_time then
  redis.call('ZADD', due_purges, text(next_time), id_of_endpoint(endpoint))
else
  redis.call('ZREM', due_purges, id_of_endpoint(endpoint))
end
return { 'OK' }
