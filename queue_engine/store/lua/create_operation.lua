-- Begin an operation: change many tasks of an endpoint, in the background. Not allowed at maxmemory, because it is new work.
--
-- flags: durable
-- keys of an endpoint: endpoint, created, counts, operations, running_operations
-- keys: operation, given_tasks
-- arguments:
--   operation_id text, call_id text (with which it changes tasks), fingerprint text (of the request), action text,
--   filters text (empty: the tasks are given), is_dry flag, author_id text, author_name text, address text,
--   task_ids list of text (the given tasks)
-- replies:
--   OK: surplus list of text (the oldest operations beyond those that are kept)
--   ALREADY (the same request has begun it before)
--   CONFLICT (another request has the id)
--   BUSY (the endpoint has the maximum number of operations that run)
--   CLOSED (the endpoint is stopped or failed, so that no task can be retried)
--   GONE
local tenant, desired, failed = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'failed'))
if not tenant or desired == 'deleted' then return { 'GONE' } end
local before = redis.call('HGET', operation, 'print')
if before then return { before == fingerprint and 'ALREADY' or 'CONFLICT' } end
if action == 'retry' and not is_dry and (desired ~= 'running' or failed == '1') then return { 'CLOSED' } end
if tonumber(redis.call('HGET', counts, 'operations') or '0') >= MAX_RUNNING_OPERATIONS then return { 'BUSY' } end

local now = text(now_ms())
local total = filters == '' and #task_ids or redis.call('XLEN', created)
local given_bytes = 0
for _, task_id in ipairs(task_ids) do given_bytes = given_bytes + #task_id + GIVEN_TASK_BYTES end
redis.call('HSET', operation, 'state', 'running', 'print', fingerprint, 'tenant', tenant, 'action', action, 'filters', filters,
  'dry', is_dry and 1 or 0, 'call', call_id, 'upto', redis.call('HGET', counts, 'seq:all') or 0, 'total', total, 'matched', 0,
  'scanned', 0, 'step', 0, 'created', now, 'updated', now, 'author', author_id, 'author_name', author_name, 'address', address)
-- In parts, because Lua passes a limited number of arguments.
for first = 1, #task_ids, 1000 do
  redis.call('RPUSH', given_tasks, unpack(task_ids, first, math.min(first + 999, #task_ids)))
end
if given_bytes > 0 then
  redis.call('HSET', operation, 'given_bytes', given_bytes)
  add_use('given_bytes', given_bytes)
end
redis.call('HINCRBY', counts, 'operations', 1)
redis.call('SADD', running_operations, id_of_endpoint(endpoint) .. ':' .. operation_id .. ':' .. tenant)
redis.call('ZADD', operations, now, operation_id)
redis.call('PERSIST', operations)
local beyond = redis.call('ZCARD', operations) - MAX_KEPT_OPERATIONS
return { 'OK', beyond > 0 and redis.call('ZRANGE', operations, 0, beyond - 1) or {} }
