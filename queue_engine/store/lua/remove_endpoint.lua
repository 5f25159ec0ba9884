-- Remove a deleted endpoint that has no workers, tasks or deliveries any longer.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, endpoints, deletions, due_purges, due_checks, waiting_endpoints, counts, live, workers, queue,
--   retry_queue, created, finished_success, finished_delivered, finished_failed, given_up, recovery, recovered, recoveries,
--   operations, agent_tokens, worker_tokens, removed_events, tags, tagged, bell, turn, lane_entries, lanes, ring_high, ring_normal,
--   ring_low, parked, series, sampled_endpoints
-- arguments: endpoint_id text
-- replies:
--   OK: tenant optional text, name optional text (none when there is no such endpoint)
--   BUSY (the endpoint has workers, tasks or deliveries)
local function leave_indexes()
  redis.call('ZREM', endpoints, endpoint_id)
  redis.call('ZREM', deletions, endpoint_id)
  redis.call('SREM', waiting_endpoints, endpoint_id)
  redis.call('ZREM', due_purges, endpoint_id)
  redis.call('ZREM', due_checks, endpoint_id)
  redis.call('SREM', recoveries, endpoint_id)
  redis.call('ZREM', sampled_endpoints, endpoint_id)
end

if redis.call('EXISTS', endpoint) == 0 then
  leave_indexes()
  return { 'OK', false, false }
end
local tenant, desired, config = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'config'))
if desired ~= 'deleted' then return { 'BUSY' } end
for _, count in ipairs(redis.call('HMGET', counts, 'success', 'delivered', 'failed', 'events')) do
  if (tonumber(count) or 0) > 0 then return { 'BUSY' } end
end
if redis.call('ZCARD', live) > 0 or redis.call('HLEN', workers) > 0 then return { 'BUSY' } end
recount_workers()
redis.call('DEL', endpoint, counts, live, workers, queue, retry_queue, created, finished_success, finished_delivered,
  finished_failed, given_up, recovery, recovered, operations, agent_tokens, worker_tokens, removed_events, tags, tagged, bell, turn,
  lane_entries, lanes, ring_high, ring_normal, ring_low, parked, series)
leave_indexes()
return { 'OK', tenant, cjson.decode(config).name }
