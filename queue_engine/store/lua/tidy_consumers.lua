-- Remove consumers without entries that no longer belong to a worker from the groups of an endpoint's queues. If such an agent
-- is still alive, its next read creates the consumer again.
--
-- flags: allow-oom
-- keys of an endpoint: queue, retry_queue, turn, workers
-- replies:
--   OK: forgotten integer, left integer (consumers with entries that another agent must claim first)
local forgotten, left = 0, 0
for _, stream in ipairs({ queue, retry_queue, turn }) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, 'agents')
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local facts = {}
    for field = 1, #consumer, 2 do facts[consumer[field]] = consumer[field + 1] end
    if redis.call('HEXISTS', workers, facts.name) == 0 then
      if facts.pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, 'agents', facts.name)
        forgotten = forgotten + 1
      else
        left = left + 1
      end
    end
  end
end
return { 'OK', forgotten, left }
