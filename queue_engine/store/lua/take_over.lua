-- Claim entries of a queue that another agent has claimed and not started, because it has died. None while the queue is paused.
-- With a rate limit, each takes a token again, because its start comes later than the one that its first token was for.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint
-- keys: stream
-- arguments: worker_id text, idle_ms integer (the time since the other agent's claim), cursor text, limit integer
-- replies:
--   OK: cursor text (from which the search continues), taken entries
local paused, rate_limit = unpack(redis.call('HMGET', endpoint, 'paused', 'rate_limit'))
local now = now_us()
local tokens = start_tokens(rate_limit, now)
local places = tokens and math.min(limit, math.floor(tokens + 0.000001)) or limit
if paused == '1' or places == 0 then return { 'OK', '0-0', {} } end
local found = redis.call('XAUTOCLAIM', stream, 'agents', worker_id, idle_ms, cursor, 'COUNT', places)
if tokens then keep_start_tokens(tokens - #found[2], now) end
return { 'OK', found[1], found[2] }
