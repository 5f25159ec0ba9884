#!lua flags=allow-oom
-- Forget agents in the groups of an endpoint's queues that are no workers any more and hold no entries. One that lives all
-- the same is there again with its next read.
-- KEYS 1 queue 2 retry queue 3 workers
-- ARGV none
-- Reply how many were forgotten
local forgotten = 0
for index = 1, 2 do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[index], 'agents')
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local facts = {}
    for field = 1, #consumer, 2 do facts[consumer[field]] = consumer[field + 1] end
    if facts.pending == 0 and redis.call('HEXISTS', KEYS[3], facts.name) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[index], 'agents', facts.name)
      forgotten = forgotten + 1
    end
  end
end
return forgotten
