#!lua flags=no-writes,allow-oom
-- One page of an index, newest first. Takes steps in the levels of blocks and in one block, not in all entries before it.
-- KEYS 1 stream of the index 2 endpoint counts
-- ARGV 1 index: all | success | delivered | failed 2 entries before the page 3 most entries
-- Reply {entries in the index, {id of a task, …}}
local total = redis.call('XLEN', KEYS[1])
local offset = tonumber(ARGV[2])
local size = math.min(tonumber(ARGV[3]), total - offset)
if size <= 0 then return { total, {} } end

-- The block among `low` to `high` of one level with the entry that `left` newer ones of them come before, and how many of
-- those are in that block.
local function find(level, low, high, latest, left)
  local prefix = ARGV[1] .. ':' .. level .. ':'
  while high > low do
    local fields, first = {}, math.max(low, high - FAN + 1)
    for block = first, high do fields[#fields + 1] = prefix .. block end
    local counted = redis.call('HMGET', KEYS[2], unpack(fields))
    for block = high, first, -1 do
      local held = tonumber(counted[block - first + 1]) or 0
      -- The numbers after the last full block are not counted yet.
      if block == block_of(latest, level) then held = held + (latest - 1) % BLOCK + 1 end
      if left < held then return block, left end
      left = left - held
    end
    high = first - 1
  end
  return low, left
end

-- The number that the page's block ends with, and the entries of that block before the page.
local function go_down()
  local latest = tonumber(redis.call('HGET', KEYS[2], 'seq:' .. ARGV[1]))
  local oldest = tonumber(string.match(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1], '^%d+'))
  local block, left = nil, offset
  for level = LEVELS, 1, -1 do
    local low, high = block_of(oldest, level), block_of(latest, level)
    if block then low, high = math.max(low, block * FAN), math.min(high, block * FAN + FAN - 1) end
    block, left = find(level, low, high, latest, left)
  end
  return (block + 1) * BLOCK, left
end

local ids = {}
local before_end = total - offset - size
if before_end < BLOCK and before_end < offset then
  local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', before_end + size)
  for place = #entries, before_end + 1, -1 do ids[#ids + 1] = entries[place][2][2] end
else
  local last, left = '+', offset
  if offset >= BLOCK then last, left = go_down() end
  local entries = redis.call('XREVRANGE', KEYS[1], last, '-', 'COUNT', left + size)
  for place = left + 1, #entries do ids[#ids + 1] = entries[place][2][2] end
end
return { total, ids }
