-- Let a worker that a controller has started finish or release its tasks and end. The leading controller starts another one in its
-- place, unless the endpoint should have fewer. With fields the endpoint is changed too, unless it was changed since it was read.
-- Allowed at maxmemory, so that an operator can replace a worker then.
--
-- flags: allow-oom, durable
-- keys of a worker: worker, endpoint
-- arguments: tenant text, reason text, call_id text (of this call, so that a repeated call gets the same reply),
--   version integer (of the endpoint that was read), fields map (of the endpoint; empty to change none)
-- replies:
--   OK
--   UNCHANGED (it is being stopped)
--   CONFLICT (the endpoint was changed since)
--   BY_HAND (its agent was started by hand)
--   NOT_FOUND
local owner, desired, current = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'version'))
if owner ~= tenant or desired == 'deleted' then return { 'NOT_FOUND' } end
local status, managed, call = unpack(redis.call('HMGET', worker, 'status', 'managed', 'stop_call'))
if not status then return { 'NOT_FOUND' } end
if managed ~= '1' then return { 'BY_HAND' } end
if call == call_id then return { 'OK' } end
if status == 'STOPPING' then return { 'UNCHANGED' } end
if #fields > 0 then
  if tonumber(current) ~= version then return { 'CONFLICT' } end
  redis.call('HSET', endpoint, 'updated', text(now_ms()), unpack(fields))
  redis.call('HINCRBY', endpoint, 'version', 1)
end
redis.call('HSET', worker, 'stop_call', call_id)
change_status('STOPPING', reason)
return { 'OK' }
