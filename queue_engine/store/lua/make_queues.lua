-- Create the missing groups of an endpoint's queues, after the store has lost them. Does nothing without the endpoint, so that
-- an agent that outlives its endpoint does not leave queues behind.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, queue, retry_queue, turn
-- replies:
--   OK
--   GONE (there is no such endpoint)
if redis.call('EXISTS', endpoint) == 0 then return { 'GONE' } end
for _, stream in ipairs({ queue, retry_queue, turn }) do
  redis.pcall('XGROUP', 'CREATE', stream, 'agents', '0', 'MKSTREAM')
end
return { 'OK' }
