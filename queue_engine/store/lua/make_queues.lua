-- Make the groups of an endpoint's queues where they are missing: the store has come back without them. An agent that outlives
-- its endpoint must not leave queues behind.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, queue, retry_queue
-- replies:
--   OK
--   GONE (there is no such endpoint)
if redis.call('EXISTS', endpoint) == 0 then return { 'GONE' } end
for _, stream in ipairs({ queue, retry_queue }) do
  redis.pcall('XGROUP', 'CREATE', stream, 'agents', '0', 'MKSTREAM')
end
return { 'OK' }
