-- Append a change to a tenant's audit log. Allowed at maxmemory, because the change has been made. The log is limited.
--
-- flags: allow-oom, durable
-- keys: audit
-- arguments: change_id text (of this change, so that a repeated call adds nothing), fields map
-- replies:
--   OK
--   ALREADY (the latest records have this change)
for _, entry in ipairs(redis.call('XREVRANGE', audit, '+', '-', 'COUNT', AUDIT_RECORDS_COMPARED)) do
  if entry[2][2] == change_id then return { 'ALREADY' } end
end
redis.call('XADD', audit, 'MAXLEN', MAX_AUDIT_RECORDS, '*', 'id', change_id, unpack(fields))
return { 'OK' }
