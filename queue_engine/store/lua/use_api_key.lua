-- Note that an API key is in use, unless that was noted within USE_NOTE_MS. Does not create the record of a key that has ended.
--
-- flags: allow-oom
-- keys: api_key
-- replies:
--   OK
--   RECENT
--   GONE
if redis.call('EXISTS', api_key) == 0 then return { 'GONE' } end
local now, used = now_ms(), tonumber(redis.call('HGET', api_key, 'used') or '')
if used and used <= now and now - used < USE_NOTE_MS then return { 'RECENT' } end
redis.call('HSET', api_key, 'used', text(now))
return { 'OK' }
