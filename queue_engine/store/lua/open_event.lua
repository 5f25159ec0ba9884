-- Read the next status event of a worker, and record the process that sends it.
--
-- flags: allow-oom
-- keys of a worker: delivery, outbox, events
-- arguments: entry_id text, process_id text
-- replies:
--   OK: attempts integer, created_ms integer, event bytes (JSON), signing_secrets list of text (sealed)
--   STALE
local event = redis.call('LINDEX', events, 0)
if not event or redis.call('HGET', delivery, 'entry') ~= entry_id then
  drop(outbox, 'delivery', entry_id)
  if not event then redis.call('DEL', delivery) end
  return { 'STALE' }
end
redis.call('HSET', delivery, 'owner', process_id)
local attempts, created = unpack(redis.call('HMGET', delivery, 'attempts', 'created'))
return { 'OK', attempts, created, event, signing_secrets() }
