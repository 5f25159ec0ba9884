-- End an operation that runs. An operation that ends as done must have no further tasks.
--
-- flags: allow-oom, durable
-- keys of an endpoint: operations, running_operations, counts
-- keys: operation, todo, given_tasks
-- arguments: status text (done, cancelled or failed), error_text text
-- replies:
--   OK
--   BUSY (it has further tasks)
--   ENDED (it had ended before)
--   GONE
local state, tenant, is_complete, given_bytes =
  unpack(redis.call('HMGET', operation, 'state', 'tenant', 'complete', 'given_bytes'))
if not state then return { 'GONE' } end
if state ~= 'running' then return { 'ENDED' } end
if status == 'done' and (is_complete ~= '1' or redis.call('EXISTS', todo) == 1) then return { 'BUSY' } end
local now = text(now_ms())
redis.call('HSET', operation, 'state', status, 'updated', now, 'ended', now)
if error_text ~= '' then redis.call('HSET', operation, 'error', error_text) end
redis.call('DEL', todo, given_tasks)
redis.call('PEXPIRE', operation, OPERATION_KEPT_MS)
local endpoint_id, operation_id = string.match(operation, ':op:([^:]+):(.+)$')
redis.call('SREM', running_operations, endpoint_id .. ':' .. operation_id .. ':' .. tenant)
if given_bytes then
  redis.call('HDEL', operation, 'given_bytes')
  add_use('given_bytes', -given_bytes)
end
if redis.call('HINCRBY', counts, 'operations', -1) == 0 then
  redis.call('HDEL', counts, 'given_bytes') -- processes of an earlier version end operations without subtracting their bytes
  redis.call('PEXPIRE', operations, OPERATION_KEPT_MS) -- the list is kept as long as the last of its operations
end
return { 'OK' }
