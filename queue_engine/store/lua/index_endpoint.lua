-- Put an endpoint into the indexes of its partition that lack it, correct its counts, and let the controller look at its workers.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, deletions, due_purges, counts, waiting_endpoints, logs
-- replies:
--   OK: tenant text, restored integer (number of missing entries that only an API or a controller writes), has_logs flag
--   GONE
local id = id_of_endpoint(endpoint)
local tenant, desired = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted'))
if not tenant then return { 'GONE' } end
local restored = 0
if desired == 'deleted' then restored = redis.call('ZADD', deletions, 'NX', text(now_ms()), id) end
-- Entries that agents write are not counted: agents of data format 1 may run during the whole migration, which ends after a round in
-- which nothing was missing.
recount_workers()
correct_use()
local queued, scheduled = unpack(redis.call('HMGET', counts, 'queued', 'scheduled'))
if (queued or 0) + (scheduled or 0) > 0 then redis.call('SADD', waiting_endpoints, id) end
check_now()
local expiry = next_expiry(now_ms())
if expiry then redis.call('ZADD', due_purges, 'LT', text(expiry), id) end
local has_logs = redis.call('EXISTS', logs) == 1
if not has_logs then redis.call('HDEL', counts, 'logs') end
return { 'OK', tenant, restored, has_logs }
