#!lua flags=allow-oom
-- Remove an ended task whose retention is over. A task whose delivery still goes on is moved to the end of its stream, to be
-- looked at again after another retention time.
-- KEYS 1 task 2 body 3 result 4 attempts log 5 finished stream 6 created 7 endpoint counts 8 delivery 9 endpoint 10 history
-- ARGV 1 number in the finished stream 2 task id 3 status, lower case 4 the task's place in the order of creation
--      5 slack of the expiry in ms
-- Reply {'PURGED'} | {'KEPT'} | {'OK'} the entry was stale
if not index_remove(KEYS[7], ARGV[3], KEYS[5], ARGV[1]) then return { 'OK' } end
-- A task with this id that is not the one of the entry was submitted after that one's data had gone: it stays.
local seq, webhook, history, place = unpack(redis.call('HMGET', KEYS[1], 'seq', 'webhook', 'history', 'result_at'))
local is_there = seq == ARGV[4]
if is_there and webhook and redis.call('EXISTS', KEYS[8]) == 1 then
  redis.call('HSET', KEYS[1], 'fin', index_add(KEYS[7], ARGV[3], KEYS[5], now_ms(), 't', ARGV[2], 'n', ARGV[4]))
  local retention = tonumber(redis.call('HGET', KEYS[9], 'retention') or '0') * 1000
  local ttl = math.max(redis.call('PTTL', KEYS[1]), retention + tonumber(ARGV[5]))
  for _, index in ipairs({ 1, 2, 3, 4, 10 }) do redis.call('PEXPIRE', KEYS[index], text(ttl)) end
  return { 'KEPT' }
end
redis.call('HINCRBY', KEYS[7], ARGV[3], -1)
index_remove(KEYS[7], 'all', KEYS[6], ARGV[4])
if is_there then
  redis.call('DEL', KEYS[1], KEYS[2])
  -- To look for keys that are not there costs as much as to remove them.
  if not place then redis.call('DEL', KEYS[3]) end
  if webhook then redis.call('DEL', KEYS[4]) end
  if history then redis.call('DEL', KEYS[10]) end
end
return { 'PURGED' }
