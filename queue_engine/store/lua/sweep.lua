-- Find the due tasks of a partition: tasks with expired leases, unless there is a grace; scheduled tasks whose wait is over;
-- tasks at their deadline.
--
-- flags: allow-oom
-- keys of a partition: leases, due, deadlines
-- arguments: tick_ms integer, lease_ms integer, limit integer (of each kind)
-- replies:
--   OK: lost list of text, due list of text, overdue list of text (members with an expired lease, due, at their deadline)
local now = now_ms()
local function until_now(key)
  return redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'LIMIT', 0, limit)
end
local lost = {}
if in_grace('sweep', now, tick_ms, lease_ms) then
  shorten_leases(leases, now + lease_ms, limit)
else
  lost = until_now(leases)
end
return { 'OK', lost, until_now(due), until_now(deadlines) }
