-- Change an endpoint, unless it was changed since it was read.
--
-- flags: durable
-- keys of an endpoint: endpoint
-- arguments: tenant text, version integer (that was read), needs_new_workers flag, fields map
-- replies:
--   OK
--   CONFLICT (the endpoint was changed since)
--   NOT_FOUND
local owner, desired, current = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'version'))
if owner ~= tenant or desired == 'deleted' then return { 'NOT_FOUND' } end
if tonumber(current) ~= version then return { 'CONFLICT' } end
redis.call('HSET', endpoint, 'updated', text(now_ms()), unpack(fields))
redis.call('HINCRBY', endpoint, 'version', 1)
if needs_new_workers then
  redis.call('HINCRBY', endpoint, 'revision', 1)
  redis.call('HDEL', endpoint, 'failed')
end
return { 'OK' }
