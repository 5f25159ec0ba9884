-- Put deliveries that this process has read, and has no room for, onto a shelf of their tenant. A shelf is a consumer of the
-- outbox's group that no process has: its entries stay in the outbox until a process with room takes them.
--
-- flags: allow-oom
-- keys of a partition: outbox
-- arguments: shelf text, process_id text, entry_ids list of text
-- replies:
--   OK: shelved integer (entries that this process still had)
local owned = {}
for _, entry in ipairs(entry_ids) do
  local pending = redis.pcall('XPENDING', outbox, 'delivery', entry, entry, 1, process_id)
  if pending.err then return { 'OK', 0 } end -- the store came back empty
  if #pending > 0 then owned[#owned + 1] = entry end
end
if #owned == 0 then return { 'OK', 0 } end
owned[#owned + 1] = 'JUSTID'
return { 'OK', #redis.call('XCLAIM', outbox, 'delivery', shelf, 0, unpack(owned)) }
