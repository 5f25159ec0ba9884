-- Count the bytes of an endpoint's logs again, because a log that expires is not subtracted.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, logs, counts
-- keys: worker_logs list
-- arguments: worker_ids list of text (of all logs, in their order)
-- replies:
--   OK
--   GONE (the endpoint was removed, and its counts must not be created again)
--   CHANGED (there are other logs now)
if redis.call('EXISTS', endpoint) == 0 then return { 'GONE' } end
if redis.call('ZCARD', logs) ~= #worker_ids then return { 'CHANGED' } end
local bytes = 0
for index, worker_id in ipairs(worker_ids) do
  local size = log_bytes(worker_logs[index])
  if size == 0 then redis.call('ZREM', logs, worker_id) end
  bytes = bytes + size
end
redis.call('HSET', counts, 'logs', text(bytes))
return { 'OK' }
