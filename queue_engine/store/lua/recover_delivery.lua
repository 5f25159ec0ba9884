-- Send a result again whose delivery was given up, for a recovery. Not allowed at maxmemory, because it is new work.
--
-- keys of a task: task, given_up, recovery, recovered
-- arguments: recovery_id text, limit integer (of deliveries that the recovery has made due at a time)
-- replies:
--   OK
--   FULL (the limit is reached)
--   SKIPPED (the delivery was not given up, or the recovery has sent it before)
--   ENDED (the recovery does not run any longer)
local id, state, since, upto = unpack(redis.call('HMGET', recovery, 'id', 'state', 'since', 'upto'))
if id ~= recovery_id or state ~= 'running' then return { 'ENDED' } end
if redis.call('SCARD', recovered) >= limit then return { 'FULL' } end
local _, task_id = names_of(task)
local at = tonumber(redis.call('ZSCORE', given_up, task_id) or '')
if not at or at < tonumber(since) or at > tonumber(upto) then return { 'SKIPPED' } end
if redis.call('HGET', task, 'delivery') ~= 'MAX_RETRIES_EXCEEDED' then
  redis.call('ZREM', given_up, task_id)
  return { 'SKIPPED' }
end
deliver_now('recover')
redis.call('SADD', recovered, task_id)
redis.call('PEXPIRE', recovered, RECOVERY_KEPT_MS)
redis.call('HINCRBY', recovery, 'sent', 1)
redis.call('HSET', recovery, 'updated', text(now_ms()))
redis.call('PEXPIRE', recovery, RECOVERY_KEPT_MS)
return { 'OK' }
