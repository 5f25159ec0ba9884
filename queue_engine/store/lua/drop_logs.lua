-- Delete the logs of some workers.
--
-- flags: allow-oom
-- keys of an endpoint: logs
-- keys: worker_logs list
-- arguments: worker_ids list of text (in the order of their logs)
-- replies:
--   OK
for index, worker_id in ipairs(worker_ids) do
  redis.call('UNLINK', worker_logs[index])
  redis.call('ZREM', logs, worker_id)
end
return { 'OK' }
