-- Set the desired state of an endpoint. A deletion is final. Allowed at maxmemory, because a deletion frees memory.
--
-- label: want_endpoint
-- flags: allow-oom, durable
-- keys of an endpoint: endpoint, deletions
-- arguments: tenant text, desired text (running, stopped or deleted), call_id text (of this call, so that a repeated call gets the
--   same reply), versions list of text (of the endpoint that the client accepts; none: any)
-- replies:
--   OK
--   UNCHANGED (the endpoint had this desired state)
--   CONFLICT (the endpoint has none of these versions)
--   NOT_FOUND
local owner, before, call, version = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'state_call', 'version'))
if owner == tenant and call == call_id then return { 'OK' } end
if owner ~= tenant or before == 'deleted' then return { 'NOT_FOUND' } end
if before == desired then return { 'UNCHANGED' } end
if not is_one_of(versions, version) then return { 'CONFLICT' } end
local now = text(now_ms())
redis.call('HSET', endpoint, 'wanted', desired, 'updated', now, 'state_call', call_id)
redis.call('HINCRBY', endpoint, 'version', 1)
redis.call('HDEL', endpoint, 'failed')
check_now()
if desired == 'deleted' then redis.call('ZADD', deletions, now, id_of_endpoint(endpoint)) end
return { 'OK' }
