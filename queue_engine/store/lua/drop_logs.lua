-- Delete the logs of some workers.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, logs
-- keys: worker_logs list
-- arguments: worker_ids list of text (in the order of their logs)
-- replies:
--   OK
local is_there = redis.call('EXISTS', endpoint) == 1 -- otherwise the counts were removed with it, and must not be created again
for index, worker_id in ipairs(worker_ids) do
  if is_there then add_use('logs', -log_bytes(worker_logs[index])) end
  redis.call('UNLINK', worker_logs[index])
  redis.call('ZREM', logs, worker_id)
end
return { 'OK' }
