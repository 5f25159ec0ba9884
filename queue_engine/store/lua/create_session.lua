-- Store a session of the web console, or a link that begins one. It ends after its life, and before when it is idle.
--
-- flags: allow-oom
-- keys: api_key, record (of the session or the link), index (of the key's sessions or links), displaced list (records to remove)
-- arguments:
--   record_hash text, key_hash text, life_ms integer, idle_ms integer, limit integer (of the key's sessions or links),
--   displaced_hashes list of text
-- replies:
--   OK: ends_ms integer
--   FULL (the key has its limit: displace some)
--   GONE (the key has ended)
if redis.call('EXISTS', api_key) == 0 then return { 'GONE' } end
for number, hash in ipairs(displaced_hashes) do
  redis.call('DEL', displaced[number])
  redis.call('ZREM', index, hash)
end
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', index, '-inf', text(now))
local is_stored = redis.call('ZSCORE', index, record_hash)
if not is_stored and redis.call('ZCARD', index) >= limit then return { 'FULL' } end
local ends = now + life_ms
redis.call('SET', record, key_hash .. ' ' .. text(ends), 'PXAT', text(math.min(ends, now + idle_ms)))
redis.call('ZADD', index, text(ends), record_hash)
redis.call('PEXPIREAT', index, text(ends))
return { 'OK', text(ends) }
