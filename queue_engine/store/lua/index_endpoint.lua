-- Put an endpoint into the indexes of its partition that lack it, and let the controller look at its workers.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, deletions, due_purges
-- replies:
--   OK: tenant text, restored integer (number of entries that were missing or too late)
--   GONE
local id = id_of_endpoint(endpoint)
local tenant, desired = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted'))
if not tenant then return { 'GONE' } end
local restored = 0
if desired == 'deleted' then restored = redis.call('SADD', deletions, id) end
local expiry = next_expiry(now_ms())
check_now()
if expiry then restored = restored + redis.call('ZADD', due_purges, 'LT', 'CH', text(expiry), id) end
return { 'OK', tenant, restored }
