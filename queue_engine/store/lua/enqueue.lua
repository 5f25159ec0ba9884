#!lua
-- Accept a task, once for each task id. Has no allow-oom: at maxmemory new work is refused while running work ends.
-- KEYS 1 endpoint 2 task 3 body 4 queue 5 created 6 live 7 endpoint counts 8 partition counts 9 deadlines
-- ARGV 1 task id 2 fingerprint of the request 3 tenant 4 spec and input 5 length of the spec 6 '1' with a webhook, else ''
--      7 partition index 8 numbers per partition step 9 member
--      10 execution timeout in s 11 queue TTL in s, each '' for the endpoint's
-- Reply {'OK', number} | {'EXISTS'} same request before | {'CONFLICT'} same id, other request | {'NOT_FOUND'}
--       {'NOT_QUEUE'} | {'CLOSED'} stopped or failed | {'FULL', limit}
local tenant, mode, wanted, failed, max_queued, max_attempts, timeout, ttl = unpack(redis.call('HMGET', KEYS[1],
  'tenant', 'mode', 'wanted', 'failed', 'max_queued', 'max_attempts', 'timeout', 'queue_ttl'))
if tenant ~= ARGV[3] or wanted == 'deleted' then return { 'NOT_FOUND' } end
if mode ~= 'QUEUE' then return { 'NOT_QUEUE' } end
local before = redis.call('HGET', KEYS[2], 'print')
if before then
  return { before == ARGV[2] and 'EXISTS' or 'CONFLICT' }
end
if wanted ~= 'running' or failed == '1' then return { 'CLOSED' } end
local waiting = redis.call('HMGET', KEYS[7], 'queued', 'scheduled')
if (tonumber(waiting[1]) or 0) + (tonumber(waiting[2]) or 0) >= tonumber(max_queued) then
  return { 'FULL', max_queued }
end

if ARGV[10] ~= '' then timeout = ARGV[10] end
if ARGV[11] ~= '' then ttl = ARGV[11] end
local now = text(now_ms())
local seq = index_add(KEYS[7], 'all', KEYS[5], 1, 't', ARGV[1])
local number = redis.call('HINCRBY', KEYS[8], 'seq', 1) * tonumber(ARGV[8]) + tonumber(ARGV[7])
local entry = redis.call('XADD', KEYS[4], '*', 't', ARGV[1])
-- A plain SET would look for an expiry to remove, in a table of as many keys as tasks have ended.
if not redis.call('SET', KEYS[3], ARGV[4], 'NX', 'KEEPTTL') then redis.call('SET', KEYS[3], ARGV[4]) end
redis.call('HSET', KEYS[2], 'state', 'queued', 'entry', entry, 'attempts', 0, 'lost', 0, 'created', now, 'updated', now,
  'number', text(number), 'seq', seq, 'print', ARGV[2], 'spec', ARGV[5], 'timeout', timeout, 'max', max_attempts)
if ttl and ttl ~= '' then
  local deadline = text(tonumber(now) + math.ceil(tonumber(ttl) * 1000))
  redis.call('HSET', KEYS[2], 'ttl', ttl, 'deadline', deadline)
  redis.call('ZADD', KEYS[9], deadline, ARGV[9])
end
if ARGV[6] == '1' then redis.call('HSET', KEYS[2], 'webhook', 1) end
redis.call('ZADD', KEYS[6], seq, ARGV[1])
count_move(KEYS[7], KEYS[8], nil, 'queued')
return { 'OK', text(number) }
