-- Renew the lease of this delivery process, and adopt the entries that dead processes have read and not settled.
--
-- flags: allow-oom
-- keys of a partition: outbox, senders
-- arguments: process_id text, tick_ms integer, lease_ms integer, limit integer (of adopted entries)
-- replies:
--   OK: unsettled integer (entries that this process had read and not settled before), adopted entries
local now = now_ms()
redis.call('ZADD', senders, text(now + lease_ms), process_id)
local grace = in_grace('adopt', now, tick_ms, lease_ms)
if grace then shorten_leases(senders, now + lease_ms, 1000) end
local unsettled, adopted = 0, {}
-- A process without a lease counts as dead, like a process with an expired lease, so expired leases can be removed.
if not grace then redis.call('ZREMRANGEBYSCORE', senders, '-inf', '(' .. text(now)) end
local consumers = redis.pcall('XINFO', 'CONSUMERS', outbox, 'delivery')
if consumers.err then return { 'OK', unsettled, adopted } end
for _, consumer in ipairs(consumers) do
  local name, pending
  for index = 1, #consumer, 2 do
    if consumer[index] == 'name' then name = consumer[index + 1] end
    if consumer[index] == 'pending' then pending = consumer[index + 1] end
  end
  local dead = tonumber(redis.call('ZSCORE', senders, name) or '0') < now
  if name == process_id then
    unsettled = pending
  elseif dead and not grace and pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', outbox, 'delivery', name)
  elseif dead and not grace and #adopted < limit then
    local ids = {}
    for _, entry in ipairs(redis.call('XPENDING', outbox, 'delivery', '-', '+', limit, name)) do ids[#ids + 1] = entry[1] end
    if #ids > 0 then
      for _, entry in ipairs(redis.call('XCLAIM', outbox, 'delivery', process_id, 0, unpack(ids))) do
        adopted[#adopted + 1] = entry
      end
    end
  end
end
return { 'OK', unsettled, adopted }
