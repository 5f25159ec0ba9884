#!lua flags=allow-oom
-- Forget a worker that has ended; its last status is an event too.
-- KEYS 1 worker 2 workers 3 endpoint 4 events 5 delivery 6 outbox 7 endpoint counts 8 queue 9 retry queue
-- ARGV 1 worker id 2 last status: STOPPED | FAILED 3 reason 4 delivery id
-- Reply {'OK'}
if redis.call('EXISTS', KEYS[1]) == 1 then
  change_status(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7],
    { worker_id = ARGV[1], status = ARGV[2], reason = ARGV[3], delivery_id = ARGV[4] })
end
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], ARGV[1])
-- Its name in the groups goes too, unless it still holds entries that another agent must take over first.
for index = 8, 9 do
  local pending = redis.pcall('XPENDING', KEYS[index], 'agents', '-', '+', 1, ARGV[1])
  if not pending.err and #pending == 0 then redis.pcall('XGROUP', 'DELCONSUMER', KEYS[index], 'agents', ARGV[1]) end
end
return { 'OK' }
