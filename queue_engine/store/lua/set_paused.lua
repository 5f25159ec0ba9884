-- Pause the queue of an endpoint, or resume it. While it is paused no agent claims its tasks. Allowed at maxmemory, so that an
-- operator can stop work then.
--
-- flags: allow-oom, durable
-- keys of an endpoint: endpoint
-- arguments: tenant text, is_paused flag, call_id text (of this call, so that a repeated call gets the same reply),
--   versions list of text (of the endpoint that the client accepts; none: any)
-- replies:
--   OK
--   UNCHANGED (the queue was paused, or was not)
--   CONFLICT (the endpoint has none of these versions)
--   NOT_FOUND
local owner, desired, before, call, version =
  unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'paused', 'pause_call', 'version'))
if owner ~= tenant or desired == 'deleted' then return { 'NOT_FOUND' } end
if call == call_id then return { 'OK' } end
if (before == '1') == is_paused then return { 'UNCHANGED' } end
if not is_one_of(versions, version) then return { 'CONFLICT' } end
local now = text(now_ms())
redis.call('HSET', endpoint, 'updated', now, 'pause_call', call_id)
redis.call('HINCRBY', endpoint, 'version', 1)
if is_paused then
  redis.call('HSET', endpoint, 'paused', 1, 'paused_at', now)
else
  redis.call('HDEL', endpoint, 'paused', 'paused_at')
  ring_bell()
end
return { 'OK' }
