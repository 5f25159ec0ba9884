-- Renew the lease of this delivery process, and adopt the entries that dead processes have read and not settled. Find the
-- shelves with deliveries, and the next delivery whose wait is over, for a process that has not put them there itself.
--
-- flags: allow-oom
-- keys of a partition: outbox, senders, outbox_due, outbox_parked
-- arguments: process_id text, tick_ms integer, lease_ms integer, limit integer (of adopted entries)
-- replies:
--   OK: unsettled integer (entries that this process had read and not settled before), retry_ms optional integer,
--     parked_ms optional integer (time until the next delivery waits no longer), shelves list of text, adopted entries
local now = now_ms()
redis.call('ZADD', senders, text(now + lease_ms), process_id)
local grace = in_grace('adopt', now, tick_ms, lease_ms)
if grace then shorten_leases(senders, now + lease_ms, 1000) end
local unsettled, shelves, adopted = 0, {}, {}
local retry_ms, parked_ms = next_due(outbox_due, '-inf', now), next_due(outbox_parked, '-inf', now)
-- A process without a lease counts as dead, like a process with an expired lease, so expired leases can be removed.
if not grace then redis.call('ZREMRANGEBYSCORE', senders, '-inf', '(' .. text(now)) end
local consumers = redis.pcall('XINFO', 'CONSUMERS', outbox, 'delivery')
if consumers.err then return { 'OK', unsettled, retry_ms, parked_ms, shelves, adopted } end
for _, consumer in ipairs(consumers) do
  local name, pending
  for index = 1, #consumer, 2 do
    if consumer[index] == 'name' then name = consumer[index + 1] end
    if consumer[index] == 'pending' then pending = consumer[index + 1] end
  end
  local dead = tonumber(redis.call('ZSCORE', senders, name) or '0') < now
  if name == process_id then
    unsettled = pending
  elseif string.sub(name, 1, #SHELF) == SHELF then
    if pending > 0 then shelves[#shelves + 1] = name else redis.call('XGROUP', 'DELCONSUMER', outbox, 'delivery', name) end
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
return { 'OK', unsettled, retry_ms, parked_ms, shelves, adopted }
