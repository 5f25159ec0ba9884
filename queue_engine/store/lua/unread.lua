#!lua flags=allow-oom
-- Put an entry back that an agent has read and cannot start: the task keeps waiting, behind no other.
-- KEYS 1 task 2 stream that the entry came from 3 retry queue
-- ARGV 1 entry id 2 task id
-- Reply {'OK'} | {'STALE'}
local state, entry = unpack(redis.call('HMGET', KEYS[1], 'state', 'entry'))
-- In a repeat the entry is not there any more. Its id alone does not tell: both queues may use it in one millisecond.
local was_there = drop(KEYS[2], 'agents', ARGV[1])
if not was_there or state ~= 'queued' or entry ~= ARGV[1] then return { 'STALE' } end
redis.call('HSET', KEYS[1], 'entry', redis.call('XADD', KEYS[3], '*', 't', ARGV[2]))
return { 'OK' }
