#!lua flags=allow-oom
-- Remove an ended task with everything of it, now. A delivery of its result that goes on is dropped.
-- KEYS 1 task 2 body 3 result 4 history 5 attempts log 6 endpoint counts 7 finished stream of SUCCESS 8 of DELIVERED
--      9 of FAILED 10 outbox 11 outbox due 12 outbox parked 13 delivery 14 created
-- ARGV 1 delivery id
-- Reply {'OK'} | {'BUSY'} it has not ended | {'GONE'}
local state, seq = unpack(redis.call('HMGET', KEYS[1], 'state', 'seq'))
if not state then return { 'GONE' } end
if not TERMINAL[state] then return { 'BUSY' } end
undo_end(KEYS, ARGV[1])
index_remove(KEYS[6], 'all', KEYS[14], seq)
redis.call('DEL', unpack(KEYS, 1, 5))
return { 'OK' }
