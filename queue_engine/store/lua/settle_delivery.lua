-- Record the result of a delivery attempt for a task's result.
--
-- flags: allow-oom, durable
-- keys of a task: delivery, outbox, outbox_due, task, body, result, attempts_log, history, counts, finished_success,
--   finished_delivered
-- arguments:
--   entry_id text, process_id text, verdict text (delivered, again or given_up), delay_ms integer (for again), reason text,
--   record text (JSON object, for the ledger; the trigger and the time of the next attempt are added),
--   may_keep flag (the task keeps a delivery that waits; a process of version 0.2 would need the delivery's key)
-- replies:
--   OK: created_ms integer, now_ms integer, is_recovered flag (a recovery has made the delivery due),
--     operation_id optional text (the operation that has made it due)
--   FENCED (another process has the delivery, or it was settled before)
local entry, owner, begun, trigger, is_counted, operation =
  unpack(redis.call('HMGET', delivery, 'entry', 'owner', 'created', 'trigger', 'counted', 'operation'))
if entry ~= entry_id or owner ~= process_id then return { 'FENCED' } end
local now = now_ms()
local due_at = verdict == 'again' and text(now + delay_ms)
drop(outbox, 'delivery', entry)
local attempts = redis.call('HINCRBY', delivery, 'attempts', 1)
local state, seq = unpack(redis.call('HMGET', task, 'state', 'seq'))
local ttl = redis.call('PTTL', task)
if state then
  redis.call('HINCRBY', task, 'delivery_attempts', 1)
  redis.call('HSET', task, 'updated', text(now))
  redis.call('HDEL', task, 'delivery_parked')
  local added = (trigger and ',"trigger":"' .. trigger .. '"' or '') .. (due_at and ',"next":' .. due_at or '')
  add_record(attempts_log, string.sub(record, 1, -2) .. added .. '}', MAX_DELIVERY_RECORDS, seq)
end

if due_at and (state or not may_keep) then
  redis.call('ZADD', outbox_due, due_at, id_of_delivery(delivery))
  if may_keep and is_counted then
    keep_delivery(begun, attempts, trigger, operation)
  else
    redis.call('HDEL', delivery, 'entry', 'owner')
  end
  if state then
    redis.call('HSET', task, 'delivery', 'FAILED', 'next_delivery', due_at)
    ttl = math.max(ttl, delay_ms + EXPIRY_SLACK_MS)
    for _, key in ipairs({ task, body, result, history }) do redis.call('PEXPIRE', key, text(ttl)) end
  end
else
  end_delivery(is_counted)
  if state and verdict == 'delivered' then
    redis.call('HDEL', task, 'next_delivery')
    redis.call('HSET', task, 'delivery', 'SUCCESS', 'delivered', text(now))
    if state == 'succeeded' then
      local bytes = bytes_in(index_remove('success', finished_success, redis.call('HGET', task, 'fin')), 'success')
      local _, task_id = names_of(task)
      redis.call('HSET', task, 'fin', index_add('delivered', finished_delivered, now, 't', task_id, 'n', seq, 'b', bytes))
      redis.call('HINCRBY', counts, 'success', -1)
      redis.call('HINCRBY', counts, 'delivered', 1)
    end
  elseif state then
    give_up(now, reason)
  end
end
if state then redis.call('PEXPIRE', attempts_log, text(math.max(ttl, 1))) end
return { 'OK', begun, text(now), trigger == 'recover', operation }
