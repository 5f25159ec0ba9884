#!lua flags=allow-oom
-- Forget the logs of some workers.
-- KEYS 1 logs of the endpoint 2.. logs
-- ARGV worker ids, in the order of their logs
-- Reply {'OK'}
for index, worker in ipairs(ARGV) do
  redis.call('UNLINK', KEYS[index + 1])
  redis.call('ZREM', KEYS[1], worker)
end
return { 'OK' }
