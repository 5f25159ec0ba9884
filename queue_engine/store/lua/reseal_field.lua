-- Replace a sealed text by the same secret sealed with another key, unless the text was changed since it was read.
--
-- flags: allow-oom
-- keys: record (a hash)
-- arguments: field text, before text, after text, has_version flag (the hash has a version that fences its changes)
-- replies:
--   OK
--   STALE
if redis.call('HGET', record, field) ~= before then return { 'STALE' } end
redis.call('HSET', record, field, after)
if has_version then redis.call('HINCRBY', record, 'version', 1) end
return { 'OK' }
