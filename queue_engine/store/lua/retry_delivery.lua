-- Send the result of an ended task now. Not allowed at maxmemory, because it is new work.
--
-- flags: durable
-- keys of a task: task, delivery
-- arguments: call_id text, trigger text (retry or redeliver), sends_delivered flag (also send a result that is delivered)
-- replies:
--   OK
--   ALREADY (the same call has made the delivery due before)
--   DUE (the delivery is due already, or being sent)
--   DELIVERED
--   BUSY (the task has not ended)
--   NO_WEBHOOK
--   GONE
local state, webhook, status, call = unpack(redis.call('HMGET', task, 'state', 'webhook', 'delivery', 'send_call'))
if not state then return { 'GONE' } end
if not TERMINAL[state] then return { 'BUSY' } end
if not webhook then return { 'NO_WEBHOOK' } end
if call == call_id then return { 'ALREADY' } end
if redis.call('HEXISTS', delivery, 'entry') == 1 then return { 'DUE' } end
if status == 'SUCCESS' and not sends_delivered then return { 'DELIVERED' } end
deliver_now(trigger)
-- The task keeps the id, because the delivery may have ended when the call is repeated.
redis.call('HSET', task, 'send_call', call_id)
return { 'OK' }
