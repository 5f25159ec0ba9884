-- Begin a recovery: send the deliveries again that an endpoint has given up in a period. Not allowed at maxmemory, because it is
-- new work.
--
-- flags: durable
-- keys of an endpoint: endpoint, recovery, recoveries, given_up
-- arguments: recovery_id text, since_ms integer, until_ms optional integer (by default now)
-- replies:
--   OK
--   ALREADY (a recovery of the same period runs)
--   BUSY (a recovery of another period runs)
--   GONE
if redis.call('EXISTS', endpoint) == 0 then return { 'GONE' } end
local asked = text(since_ms) .. '-' .. (until_ms and text(until_ms) or '')
local id, state, asked_before = unpack(redis.call('HMGET', recovery, 'id', 'state', 'asked'))
if id == recovery_id then return { 'OK' } end
if state == 'running' then return { asked_before == asked and 'ALREADY' or 'BUSY' } end
local now = now_ms()
local upto = math.min(until_ms or now, now)
redis.call('DEL', recovery)
redis.call('HSET', recovery, 'id', recovery_id, 'state', 'running', 'asked', asked, 'since', text(since_ms), 'upto', text(upto),
  'total', redis.call('ZCOUNT', given_up, text(since_ms), text(upto)), 'created', text(now), 'updated', text(now))
redis.call('PEXPIRE', recovery, RECOVERY_KEPT_MS)
redis.call('SADD', recoveries, id_of_endpoint(endpoint))
return { 'OK' }
