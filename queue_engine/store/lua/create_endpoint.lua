#!lua
-- Store a new endpoint and make its queues.
-- KEYS 1 endpoint 2 endpoints 3 queue 4 retry queue 5 outbox
-- ARGV 1 endpoint id, then field, value, …
-- Reply {'OK', now ms} | {'EXISTS'}
if redis.call('EXISTS', KEYS[1]) == 1 then return { 'EXISTS' } end
local now = text(now_ms())
redis.call('HSET', KEYS[1], 'created', now, 'updated', now, 'version', 1, 'revision', 1, unpack(ARGV, 2))
redis.call('ZADD', KEYS[2], now, ARGV[1])
for _, stream in ipairs({ KEYS[3], KEYS[4] }) do
  redis.pcall('XGROUP', 'CREATE', stream, 'agents', '0', 'MKSTREAM')
end
redis.pcall('XGROUP', 'CREATE', KEYS[5], 'delivery', '0', 'MKSTREAM')
return { 'OK', now }
