-- Replace a sealed text by the same secret sealed with another key, unless the text has changed since it was read.
--
-- flags: allow-oom
-- keys: record (a hash)
-- arguments: field text, before text, after text, has_version flag (when changes of the hash are fenced by its version)
-- replies:
--   OK
--   STALE
if redis.call('HGET', record, field) ~= before then return { 'STALE' } end
redis.call('HSET', record, field, after)
if has_version then redis.call('HINCRBY', record, 'version', 1) end
return { 'OK' }
