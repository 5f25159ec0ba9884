-- Send the result of an ended task again for an operation: see change_in_operation. Not allowed at maxmemory, because it is new work.
--
-- keys of a task: task, delivery, recovered
-- keys: operation, todo
-- arguments: operation_id text, limit integer (of deliveries that operations and a recovery have made due at a time),
--   delivery_statuses text (that the task may have, separated by spaces; empty: any), states list of text (that it may be in; none: any)
-- replies:
--   OK: result text
--   STALE (the operation has ended, or another process has changed the task)
local function send_again()
  if redis.call('SCARD', recovered) >= limit then return 'FULL' end
  deliver_now('redeliver', operation_id)
  local _, task_id = names_of(task)
  redis.call('SADD', recovered, task_id)
  redis.call('PEXPIRE', recovered, RECOVERY_KEPT_MS)
  return 'OK'
end

local function reason_not_to_send()
  if not redis.call('HGET', task, 'webhook') then return 'NO_WEBHOOK' end
  return redis.call('HEXISTS', delivery, 'entry') == 1 and 'DUE' or nil
end

local result = change_in_operation(operation, todo, send_again, true, states, delivery_statuses, reason_not_to_send)
if not result then return { 'STALE' } end
return { 'OK', result }
