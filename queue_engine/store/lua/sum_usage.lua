-- Add up what endpoints of a tenant in one partition use. Keys without an endpoint of the tenant count nothing.
--
-- flags: no-writes, allow-oom
-- keys: records list (the hash, the counts and the series of each endpoint, in turn)
-- arguments: tenant text
-- replies:
--   OK: workers integer (desired), stored_bytes integer, waiting_tasks integer, waiting_deliveries integer
local workers, bytes, tasks, deliveries = 0, 0, 0, 0
for index = 1, #records, 3 do
  local owner, desired, wanted = unpack(redis.call('HMGET', records[index], 'tenant', 'wanted', 'workers'))
  if owner == tenant then
    if desired ~= 'deleted' then workers = workers + tonumber(wanted) end
    local counted = redis.call('HMGET', records[index + 1], 'bytes', 'queued', 'scheduled', 'deliveries', 'logs', 'given_bytes')
    bytes = bytes + (tonumber(counted[1]) or 0) + (tonumber(counted[5]) or 0) + (tonumber(counted[6]) or 0)
      + redis.call('HSTRLEN', records[index], 'config') + redis.call('STRLEN', records[index + 2])
    tasks = tasks + (tonumber(counted[2]) or 0) + (tonumber(counted[3]) or 0)
    deliveries = deliveries + (tonumber(counted[4]) or 0)
  end
end
return { 'OK', workers, bytes, tasks, deliveries }
