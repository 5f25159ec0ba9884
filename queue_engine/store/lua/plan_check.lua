-- Set the time at which an endpoint's workers are looked at next, unless they have changed since the endpoint was taken.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, due_checks, workers
-- arguments: held_until_ms integer (see take_checks.lua), wait_ms optional integer (none: when something changes)
-- replies:
--   OK
--   CHANGED (the endpoint is due)
local id = id_of_endpoint(endpoint)
local now = now_ms()
-- A change after the end of the hold leaves no trace, because the endpoint is due already.
if now >= held_until_ms then return { 'CHANGED' } end
if tonumber(redis.call('ZSCORE', due_checks, id) or '') ~= held_until_ms then return { 'CHANGED' } end
if wait_ms then
  redis.call('ZADD', due_checks, text(now + math.min(wait_ms, MAX_CHECK_MS)), id)
elseif redis.call('HLEN', workers) == 0 then
  redis.call('ZREM', due_checks, id)
end
return { 'OK' }
