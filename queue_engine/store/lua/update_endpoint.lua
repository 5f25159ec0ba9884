-- Change an endpoint, unless it was changed since it was read.
--
-- flags: durable
-- keys of an endpoint: endpoint, due_purges
-- arguments: tenant text, version integer (that was read), needs_new_workers flag, fields map
-- replies:
--   OK
--   CONFLICT (the endpoint was changed since)
--   NOT_FOUND
local owner, desired, current, retention, key_limit =
  unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'version', 'retention', 'key_limit'))
if owner ~= tenant or desired == 'deleted' then return { 'NOT_FOUND' } end
if tonumber(current) ~= version then return { 'CONFLICT' } end
redis.call('HSET', endpoint, 'updated', text(now_ms()), unpack(fields))
redis.call('HINCRBY', endpoint, 'version', 1)
if redis.call('HGET', endpoint, 'retention') ~= retention then
  redis.call('ZADD', due_purges, 'XX', 'LT', text(now_ms()), id_of_endpoint(endpoint))
end
if redis.call('HGET', endpoint, 'key_limit') ~= key_limit then unpark_all() end
if needs_new_workers then
  redis.call('HINCRBY', endpoint, 'revision', 1)
  redis.call('HDEL', endpoint, 'failed')
end
check_now()
ring_bell() -- the change may let more attempts begin
return { 'OK' }
