-- Store a new endpoint and create its queues.
--
-- flags: durable
-- keys of an endpoint: endpoint, endpoints, queue, retry_queue, turn, outbox, counts
-- arguments: endpoint_id text, fields map
-- replies:
--   OK
--   EXISTS
if redis.call('EXISTS', endpoint) == 1 then return { 'EXISTS' } end
local now = text(now_ms())
redis.call('HSET', endpoint, 'created', now, 'updated', now, 'version', 1, 'revision', 1, unpack(fields))
redis.call('HSET', counts, 'sampled', '0 0 0 0 0')
redis.call('ZADD', endpoints, now, endpoint_id)
for _, stream in ipairs({ queue, retry_queue, turn }) do
  redis.pcall('XGROUP', 'CREATE', stream, 'agents', '0', 'MKSTREAM')
end
redis.pcall('XGROUP', 'CREATE', outbox, 'delivery', '0', 'MKSTREAM')
check_now()
return { 'OK' }
