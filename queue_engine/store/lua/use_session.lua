-- Note that a session of the web console is in use: it then lives for another idle time, within its life.
--
-- flags: allow-oom
-- keys: record
-- arguments: idle_ms integer
-- replies:
--   OK
--   GONE
local ends = string.match(redis.call('GET', record) or '', ' (%d+)$')
if not ends then return { 'GONE' } end
redis.call('PEXPIREAT', record, text(math.min(tonumber(ends), now_ms() + idle_ms)))
return { 'OK' }
