-- Remove a worker that has ended. Its last status is an event too.
--
-- flags: allow-oom
-- keys of a worker: worker, workers, endpoint, queue, retry_queue, due_purges, deletions
-- keys:
--   of_engine list (worker_tokens, outbox_due, outbox_parked; none when an agent on the store removes its own worker, because it
--   has no token and its user of the store has no access to these keys)
-- arguments: worker_id text, status text (the last one: STOPPED or FAILED), reason text
-- replies:
--   OK: dropped integer (events of removed workers, above the limit of the endpoint)
if redis.call('EXISTS', worker) == 1 then
  change_status(status, reason)
  count_workers(status, -1)
  check_now()
end
redis.call('DEL', worker)
redis.call('HDEL', workers, worker_id)
local tokens, due, parked = unpack(of_engine)
if tokens then redis.call('HDEL', tokens, worker_id) end
local id, now = id_of_endpoint(endpoint), now_ms()
note_removal(now)
local dropped = due and drop_surplus_events(due, parked) or 0
redis.call('ZADD', due_purges, 'LT', text(now + REMOVED_MS), id)
-- The deletion of an endpoint waits for the end of its workers.
if redis.call('HLEN', workers) == 0 then redis.call('ZADD', deletions, 'XX', 'LT', text(now), id) end
-- Remove its consumer from the groups too, unless the consumer has entries that another agent must claim first.
for _, stream in ipairs({ queue, retry_queue }) do
  local pending = redis.pcall('XPENDING', stream, 'agents', '-', '+', 1, worker_id)
  if not pending.err and #pending == 0 then redis.pcall('XGROUP', 'DELCONSUMER', stream, 'agents', worker_id) end
end
return { 'OK', dropped }
