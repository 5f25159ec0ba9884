-- Cancel the recovery of an endpoint, if one runs. Deliveries that it has made due are not changed.
--
-- flags: allow-oom, durable
-- keys of an endpoint: endpoint, recovery, recoveries
-- replies:
--   OK
--   ENDED (no recovery runs)
if redis.call('HGET', recovery, 'state') ~= 'running' then return { 'ENDED' } end
local now = text(now_ms())
redis.call('HSET', recovery, 'state', 'cancelled', 'updated', now, 'ended', now)
redis.call('PEXPIRE', recovery, RECOVERY_KEPT_MS)
redis.call('SREM', recoveries, id_of_endpoint(endpoint))
return { 'OK' }
