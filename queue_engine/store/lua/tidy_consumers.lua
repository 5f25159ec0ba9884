-- Forget agents in the groups of an endpoint's queues that are no workers any more and hold no entries. One that lives all
-- the same is there again with its next read.
--
-- flags: allow-oom
-- keys of an endpoint: queue, retry_queue, workers
-- replies:
--   OK: forgotten integer
local forgotten = 0
for _, stream in ipairs({ queue, retry_queue }) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, 'agents')
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local facts = {}
    for field = 1, #consumer, 2 do facts[consumer[field]] = consumer[field + 1] end
    if facts.pending == 0 and redis.call('HEXISTS', workers, facts.name) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, 'agents', facts.name)
      forgotten = forgotten + 1
    end
  end
end
return { 'OK', forgotten }
