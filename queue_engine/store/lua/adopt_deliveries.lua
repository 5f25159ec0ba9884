#!lua flags=allow-oom
-- Say that this delivery process lives, and take over what dead ones had read and not settled.
-- KEYS 1 outbox 2 senders 3 ticks
-- ARGV 1 delivery process 2 tick in ms 3 lease in ms 4 most entries
-- Reply {entries that this process had read and not settled before, {entry taken over, …}}, each entry as XREADGROUP
--       gives it: {entry id, {field, value, …}}
local now, lease = now_ms(), tonumber(ARGV[3])
redis.call('ZADD', KEYS[2], text(now + lease), ARGV[1])
local grace = in_grace(KEYS[3], 'adopt', now, tonumber(ARGV[2]), lease)
if grace then shorten_leases(KEYS[2], now + lease, 1000) end
local unsettled, adopted = 0, {}
-- Who is not listed counts as dead, just as one whose lease ran out: names of dead processes need not stay.
if not grace then redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(now)) end
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], 'delivery')
if consumers.err then return { unsettled, adopted } end
for _, consumer in ipairs(consumers) do
  local name, pending
  for index = 1, #consumer, 2 do
    if consumer[index] == 'name' then name = consumer[index + 1] end
    if consumer[index] == 'pending' then pending = consumer[index + 1] end
  end
  local dead = tonumber(redis.call('ZSCORE', KEYS[2], name) or '0') < now
  if name == ARGV[1] then
    unsettled = pending
  elseif dead and not grace and pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'delivery', name)
  elseif dead and not grace and #adopted < tonumber(ARGV[4]) then
    local ids = {}
    for _, entry in ipairs(redis.call('XPENDING', KEYS[1], 'delivery', '-', '+', ARGV[4], name)) do ids[#ids + 1] = entry[1] end
    if #ids > 0 then
      for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], 'delivery', ARGV[1], 0, unpack(ids))) do
        adopted[#adopted + 1] = entry
      end
    end
  end
end
return { unsettled, adopted }
