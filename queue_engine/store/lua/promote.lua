#!lua flags=allow-oom
-- Queue a scheduled task whose wait is over.
-- KEYS 1 task 2 due 3 retry queue 4 endpoint counts 5 partition counts
-- ARGV 1 member 2 task id
-- Reply {'QUEUED'} | {'OK'} nothing to do: not due, or not scheduled
local now = now_ms()
local due = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '')
if due == nil or due > now then return { 'OK' } end
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'state') ~= 'scheduled' then return { 'OK' } end
local entry = redis.call('XADD', KEYS[3], '*', 't', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', entry, 'updated', text(now))
count_move(KEYS[4], KEYS[5], 'scheduled', 'queued')
return { 'QUEUED' }
