-- Note that an agent token is in use, unless that was noted within USE_NOTE_MS. Does not store a token that was revoked again.
--
-- flags: allow-oom
-- keys of an endpoint: agent_tokens
-- arguments: token_hash text
-- replies:
--   OK
--   RECENT
--   GONE
local stored = redis.call('HGET', agent_tokens, token_hash)
if not stored then return { 'GONE' } end
local created, used, name = string.match(stored, '^(%d+) (%d+) (.*)$')
local now = now_ms()
if tonumber(used) <= now and now - used < USE_NOTE_MS then return { 'RECENT' } end
redis.call('HSET', agent_tokens, token_hash, created .. ' ' .. text(now) .. ' ' .. name)
return { 'OK' }
