-- Put an endpoint into the indexes of its partition that lack it, create its missing streams, correct its counts, and let the
-- controller look at its workers, if it has or needs any. This is run for every endpoint again and again, so one without tasks and
-- workers takes few commands.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, deletions, due_purges, counts, waiting_endpoints, logs, workers, turn
-- replies:
--   OK: tenant text, name text, restored integer (number of missing entries that only an API or a controller writes), has_logs flag
--   GONE
local id = id_of_endpoint(endpoint)
local tenant, desired, desired_workers, config =
  unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'workers', 'config'))
if not tenant then return { 'GONE' } end
local restored = 0
if desired == 'deleted' then restored = redis.call('ZADD', deletions, 'NX', text(now_ms()), id) end
if redis.call('EXISTS', turn) == 0 then
  redis.call('XGROUP', 'CREATE', turn, 'agents', '0', 'MKSTREAM')
  restored = restored + 1
end
-- Entries that agents write are not counted: agents of data format 1 may run during the whole migration, which ends after a round in
-- which nothing was missing.
recount_workers()
local has_tasks = correct_use()
if not has_tasks then forget_blocks_of_records() end
local queued, scheduled, counted_logs = unpack(redis.call('HMGET', counts, 'queued', 'scheduled', 'logs'))
if (queued or 0) + (scheduled or 0) > 0 then redis.call('SADD', waiting_endpoints, id) end
if tonumber(desired_workers or '0') > 0 or redis.call('HLEN', workers) > 0 then check_now() end
local expiry = has_tasks and next_expiry(now_ms())
if expiry then redis.call('ZADD', due_purges, 'LT', text(expiry), id) end
local has_logs = redis.call('EXISTS', logs) == 1
if counted_logs and not has_logs then redis.call('HDEL', counts, 'logs') end
return { 'OK', tenant, cjson.decode(config).name, restored, has_logs }
