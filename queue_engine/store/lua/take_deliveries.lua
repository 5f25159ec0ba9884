-- Take deliveries from a shelf, in the order of the outbox, so that this process has them. An empty shelf is removed.
--
-- flags: allow-oom
-- keys of a partition: outbox
-- arguments: shelf text, process_id text, after text (the id of an entry, 0 for the first), limit integer
-- replies:
--   OK: is_empty flag (nothing is left on the shelf), taken entries
local pending = redis.pcall('XPENDING', outbox, 'delivery', '(' .. after, '+', limit, shelf)
if pending.err then return { 'OK', true, {} } end -- the store came back empty
local ids, taken = {}, {}
for _, entry in ipairs(pending) do ids[#ids + 1] = entry[1] end
if #ids > 0 then taken = redis.call('XCLAIM', outbox, 'delivery', process_id, 0, unpack(ids)) end
local is_empty = #redis.call('XPENDING', outbox, 'delivery', '-', '+', 1, shelf) == 0
-- A consumer's entries are lost with it, so only an empty one is removed.
if is_empty then redis.call('XGROUP', 'DELCONSUMER', outbox, 'delivery', shelf) end
return { 'OK', is_empty, taken }
