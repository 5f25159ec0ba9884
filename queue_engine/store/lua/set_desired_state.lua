-- Set the desired state of an endpoint. A deletion is final. Allowed at maxmemory, because a deletion frees memory.
--
-- label: want_endpoint
-- flags: allow-oom, durable
-- keys of an endpoint: endpoint, deletions
-- arguments: tenant text, desired text (running, stopped or deleted)
-- replies:
--   OK
--   NOT_FOUND
local owner, before = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted'))
if owner ~= tenant or before == 'deleted' then return { 'NOT_FOUND' } end
if before ~= desired then
  redis.call('HSET', endpoint, 'wanted', desired, 'updated', text(now_ms()))
  redis.call('HINCRBY', endpoint, 'version', 1)
  redis.call('HDEL', endpoint, 'failed')
  check_now()
  if desired == 'deleted' then redis.call('ZADD', deletions, text(now_ms()), id_of_endpoint(endpoint)) end
end
return { 'OK' }
