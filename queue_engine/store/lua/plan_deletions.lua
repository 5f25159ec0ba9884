-- Set the times of the next attempts to delete endpoints that were taken, unless an endpoint was deleted or made due since.
--
-- flags: allow-oom
-- keys of a partition: deletions
-- arguments: held_until_ms integer (see take_deletions.lua), times_ms map (time of the next attempt by endpoint)
-- replies:
--   OK
for index = 1, #times_ms, 2 do
  local id = times_ms[index]
  if tonumber(redis.call('ZSCORE', deletions, id) or '') == held_until_ms then
    redis.call('ZADD', deletions, times_ms[index + 1], id)
  end
end
return { 'OK' }
