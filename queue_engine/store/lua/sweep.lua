#!lua flags=allow-oom
-- What is due in one partition: lost leases, unless grace is granted; waits that are over; tasks that waited for too long.
-- KEYS 1 leases 2 due 3 ticks 4 deadlines
-- ARGV 1 tick in ms 2 lease in ms 3 most members of each kind
-- Reply {members with a lost lease, members that are due, members at their deadline}
local now = now_ms()
local tick, lease, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function until_now(key)
  return redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'LIMIT', 0, most)
end
local lost = {}
if in_grace(KEYS[3], 'sweep', now, tick, lease) then
  shorten_leases(KEYS[1], now + lease, most)
else
  lost = until_now(KEYS[1])
end
return { lost, until_now(KEYS[2]), until_now(KEYS[4]) }
