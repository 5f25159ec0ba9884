-- Remove operations that have ended.
--
-- flags: allow-oom
-- keys of an endpoint: operations
-- keys: records list (of the operations)
-- arguments: operation_ids list of text
-- replies:
--   OK
for index, operation_id in ipairs(operation_ids) do
  if redis.call('HGET', records[index], 'state') ~= 'running' then
    redis.call('DEL', records[index])
    redis.call('ZREM', operations, operation_id)
  end
end
return { 'OK' }
