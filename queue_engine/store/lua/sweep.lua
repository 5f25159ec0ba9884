#!lua flags=allow-oom
-- What is due in one partition: lost leases, unless grace is granted, and waits that are over.
-- KEYS 1 leases 2 due 3 ticks
-- ARGV 1 tick in ms 2 lease in ms 3 most members of each kind
-- Reply {members with a lost lease, members that are due}
local now = now_ms()
local tick, lease, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local lost = {}
if in_grace(KEYS[3], 'sweep', now, tick, lease) then
  shorten_leases(KEYS[1], now + lease, most)
else
  lost = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'LIMIT', 0, most)
end
return { lost, redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'LIMIT', 0, most) }
