-- Find the deliveries that a recovery sends next. The recovery ends when there is none.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, recovery, recovered, recoveries, given_up
-- arguments: limit integer
-- replies:
--   OK: recovery_id text, due list of text (tasks whose delivery the recovery has made due), task_ids list of text
--   ENDED (no recovery runs)
local id, state, since, upto = unpack(redis.call('HMGET', recovery, 'id', 'state', 'since', 'upto'))
if state == 'running' then
  local ids = redis.call('ZRANGEBYSCORE', given_up, since, upto, 'LIMIT', 0, limit)
  if #ids > 0 then return { 'OK', id, redis.call('SMEMBERS', recovered), ids } end
  local now = text(now_ms())
  redis.call('HSET', recovery, 'state', 'done', 'updated', now, 'ended', now)
  redis.call('PEXPIRE', recovery, RECOVERY_KEPT_MS)
end
redis.call('SREM', recoveries, id_of_endpoint(endpoint))
return { 'ENDED' }
