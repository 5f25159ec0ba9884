-- Find ended tasks of a status whose retention is over, oldest first. Entries are in the order of their times, unless the clock
-- was set back. Then entries with times in the future count as of now, so that they are neither kept longer by the step nor
-- removed too early.
--
-- flags: allow-oom
-- keys of an endpoint: counts
-- keys: stream (of the index)
-- arguments: status text (lower case), before_ms integer (latest start of a retention that is over), limit integer
-- replies:
--   OK: entries list of list of text (number, task id, place in the order of creation)
local now = now_ms()
local stepped = 'stepped:' .. status

local function number_and_time(entry)
  local number, time = string.match(entry[1], '^(%d+)-(%d+)$')
  return tonumber(number), tonumber(time)
end

local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if not head then
  redis.call('HDEL', counts, stepped)
  return { 'OK', {} }
end
-- Entries up to number `upto` existed at the time `seen`.
local upto, seen = string.match(redis.call('HGET', counts, stepped) or '', '^(%d+) (%d+)$')
upto, seen = tonumber(upto), tonumber(seen)
local number, time = number_and_time(head)
if upto and number > upto then
  redis.call('HDEL', counts, stepped)
  upto = nil
end
if time > now and (not upto or seen > now) then
  upto, seen = tonumber(redis.call('HGET', counts, 'seq:' .. status)), now
  redis.call('HSET', counts, stepped, text(upto) .. ' ' .. text(seen))
end
local function is_over(at, its_time)
  return its_time < before_ms or (upto ~= nil and at <= upto and seen < before_ms)
end
if not is_over(number, time) then return { 'OK', {} } end
local overdue = {}
for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', limit)) do
  number, time = number_and_time(entry)
  if not is_over(number, time) then break end
  overdue[#overdue + 1] = { text(number), entry[2][2], entry[2][4] }
end
return { 'OK', overdue }
