-- Set the counts of a partition's workers by status to the sums over its endpoints.
--
-- flags: allow-oom
-- keys of a partition: counts, endpoints
-- keys: endpoint_counts list (of all endpoints of the partition)
-- replies:
--   OK: changed integer (number of counts that were wrong)
--   CHANGED (the partition has other endpoints now)
if redis.call('ZCARD', endpoints) ~= #endpoint_counts then return { 'CHANGED' } end
local sums = {}
for _, key in ipairs(endpoint_counts) do
  if not redis.call('ZSCORE', endpoints, string.match(key, ':cnt:(.+)$')) then return { 'CHANGED' } end
  for place, count in ipairs(redis.call('HMGET', key, unpack(WORKER_COUNTS))) do
    sums[place] = (sums[place] or 0) + tonumber(count or '0')
  end
end
local changed = 0
for place, count in ipairs(redis.call('HMGET', counts, unpack(WORKER_COUNTS))) do
  local sum = sums[place] or 0
  if tonumber(count or '0') ~= sum then
    redis.call('HSET', counts, WORKER_COUNTS[place], text(sum))
    changed = changed + 1
  end
end
return { 'OK', changed }
