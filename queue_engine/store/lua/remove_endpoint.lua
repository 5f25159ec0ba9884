#!lua flags=allow-oom
-- Remove a deleted endpoint when nothing of it is left to do.
-- KEYS 1 endpoint 2 endpoints 3 endpoint counts 4 live 5 workers 6.. all its other keys
-- ARGV 1 endpoint id
-- Reply {'OK'} | {'BUSY'} it has workers, tasks or deliveries
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return { 'OK' }
end
if redis.call('HGET', KEYS[1], 'wanted') ~= 'deleted' then return { 'BUSY' } end
for _, count in ipairs(redis.call('HMGET', KEYS[3], 'success', 'delivered', 'failed', 'events')) do
  if (tonumber(count) or 0) > 0 then return { 'BUSY' } end
end
if redis.call('ZCARD', KEYS[4]) > 0 or redis.call('HLEN', KEYS[5]) > 0 then return { 'BUSY' } end
redis.call('DEL', unpack(KEYS, 3))
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return { 'OK' }
