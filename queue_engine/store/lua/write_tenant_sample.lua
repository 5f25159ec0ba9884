-- Write a sample of a tenant's figures into its rings, once. Not allowed at maxmemory, so that figures take no memory from tasks.
--
-- keys: series
-- arguments: idle_ms integer, size integer (of the rings), records list of bytes (the offset and the bytes of each, that of the
--   shortest step first)
-- replies:
--   OK
--   ALREADY (this sample was written before)
local first_offset, time = records[1], string.sub(records[2], 1, 4) -- a record begins with its time
if redis.call('GETRANGE', series, first_offset, first_offset + 3) == time then return { 'ALREADY' } end
write_records(series, records, size)
redis.call('PEXPIRE', series, idle_ms)
return { 'OK' }
