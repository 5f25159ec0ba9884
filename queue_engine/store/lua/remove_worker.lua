#!lua flags=allow-oom
-- Forget a worker.
-- KEYS 1 worker 2 workers 3 queue 4 retry queue
-- ARGV 1 worker id
-- Reply {'OK'}
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], ARGV[1])
-- Its name in the groups goes too, unless it still holds entries that another agent must take over first.
for index = 3, 4 do
  local pending = redis.pcall('XPENDING', KEYS[index], 'agents', '-', '+', 1, ARGV[1])
  if not pending.err and #pending == 0 then redis.pcall('XGROUP', 'DELCONSUMER', KEYS[index], 'agents', ARGV[1]) end
end
return { 'OK' }
