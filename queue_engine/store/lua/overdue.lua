#!lua flags=allow-oom
-- Ended tasks of one status whose retention is over, the oldest first. Entries are in the order in which they came, and so in
-- that of their times, unless the clock went back in between: then what is stamped with a time to come counts as of now, so
-- that nothing stays for as long as the step was, and nothing goes too early.
-- KEYS 1 finished stream 2 endpoint counts
-- ARGV 1 status, lower case 2 time that the retention began before, ms 3 most entries
-- Reply {{number, task id, place in the order of creation}, …}
local now, before = now_ms(), tonumber(ARGV[2])
local stepped = 'stepped:' .. ARGV[1]

local function number_and_time(entry)
  local number, time = string.match(entry[1], '^(%d+)-(%d+)$')
  return tonumber(number), tonumber(time)
end

local head = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not head then
  redis.call('HDEL', KEYS[2], stepped)
  return {}
end
-- Up to number `upto`, entries were there at `seen`.
local upto, seen = string.match(redis.call('HGET', KEYS[2], stepped) or '', '^(%d+) (%d+)$')
upto, seen = tonumber(upto), tonumber(seen)
local number, time = number_and_time(head)
if upto and number > upto then
  redis.call('HDEL', KEYS[2], stepped)
  upto = nil
end
if time > now and (not upto or seen > now) then
  upto, seen = tonumber(redis.call('HGET', KEYS[2], 'seq:' .. ARGV[1])), now
  redis.call('HSET', KEYS[2], stepped, text(upto) .. ' ' .. text(seen))
end
local function is_over(at, its_time)
  return its_time < before or (upto ~= nil and at <= upto and seen < before)
end
if not is_over(number, time) then return {} end
local overdue = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[3])) do
  number, time = number_and_time(entry)
  if not is_over(number, time) then break end
  overdue[#overdue + 1] = { text(number), entry[2][2], entry[2][4] }
end
return overdue
