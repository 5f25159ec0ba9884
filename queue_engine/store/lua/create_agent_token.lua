-- Store a new agent token of an endpoint.
--
-- flags: allow-oom, durable
-- keys of an endpoint: endpoint, agent_tokens
-- arguments: tenant text, token_hash text, name text, max_tokens integer (of the endpoint)
-- replies:
--   OK: created_ms integer
--   FULL (the endpoint has its maximum number of tokens)
--   GONE (the tenant has no such endpoint, or it is being deleted)
local owner, desired = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted'))
if owner ~= tenant or desired == 'deleted' then return { 'GONE' } end
local before = redis.call('HGET', agent_tokens, token_hash)
if before then return { 'OK', string.match(before, '^%d+') } end
if redis.call('HLEN', agent_tokens) >= max_tokens then return { 'FULL' } end
local now = text(now_ms())
redis.call('HSET', agent_tokens, token_hash, now .. ' 0 ' .. name)
return { 'OK', now }
