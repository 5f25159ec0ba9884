-- Write a sample of an endpoint's figures into its rings, once. They are dropped when the endpoint has had no tasks for a long time.
-- Not allowed at maxmemory, so that figures take no memory from tasks.
--
-- keys of an endpoint: endpoint, counts, series, sampled_endpoints
-- arguments: sampled text (the totals at the sample, and the latest numbers in the indexes of succeeded and of failed
--   tasks), is_active flag (the endpoint has tasks), idle_ms integer, size integer (of the
--   rings), records list of bytes (the offset and the bytes of each)
-- replies:
--   OK
--   ALREADY (this sample was written before)
--   IDLE (the rings were dropped)
--   GONE (the endpoint is being deleted, or there is none)
local id = id_of_endpoint(endpoint)
local desired = redis.call('HGET', endpoint, 'wanted')
if not desired or desired == 'deleted' then
  redis.call('ZREM', sampled_endpoints, id)
  return { 'GONE' }
end
local before = redis.call('HGET', counts, 'sampled')
if before and string.match(before, '^%d+') == string.match(sampled, '^%d+') then return { 'ALREADY' } end
local now = now_ms()
local active_at = tonumber(redis.call('ZSCORE', sampled_endpoints, id) or '0')
if not is_active and active_at + idle_ms <= now then
  redis.call('ZREM', sampled_endpoints, id)
  redis.call('UNLINK', series)
  return { 'IDLE' }
end
write_records(series, records, size)
redis.call('HSET', counts, 'sampled', sampled)
if is_active then redis.call('ZADD', sampled_endpoints, text(now), id) end
redis.call('PEXPIRE', series, text((is_active and now or active_at) + idle_ms - now))
return { 'OK' }
