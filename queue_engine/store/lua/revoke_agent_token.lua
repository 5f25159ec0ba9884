-- Revoke an agent token permanently. The token of a later start of the same worker stays valid.
--
-- flags: allow-oom, durable
-- keys of an endpoint: agent_tokens, worker_tokens
-- arguments: token_hash text, worker_id text (empty for a token of no worker)
-- replies:
--   OK
redis.call('HDEL', agent_tokens, token_hash)
local stored = redis.call('HGET', worker_tokens, worker_id)
if stored and string.match(stored, '^%S+') == token_hash then redis.call('HDEL', worker_tokens, worker_id) end
return { 'OK' }
