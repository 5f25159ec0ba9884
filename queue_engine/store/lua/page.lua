#!lua flags=no-writes,allow-oom
-- One page of an index, newest first. Takes steps in the levels of blocks and in one block, not in the entries before it.
-- KEYS 1 stream of the index 2 endpoint counts
-- ARGV 1 index: all | success | delivered | failed 2 entries before the page 3 most entries
-- Reply {entries in the index, {id of a task, …}}
local CHUNK = 16
local total = redis.call('XLEN', KEYS[1])
local left, size = tonumber(ARGV[2]), tonumber(ARGV[3])
if left >= total then return { total, {} } end
local latest = tonumber(redis.call('HGET', KEYS[2], 'seq:' .. ARGV[1]))
local oldest = tonumber(string.match(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1], '^%d+'))

-- The entries of blocks `low` to `high` of one level.
local function sizes(level, low, high)
  local fields = {}
  for block = low, high do fields[#fields + 1] = block_field(ARGV[1], level, block) end
  local counted = redis.call('HMGET', KEYS[2], unpack(fields))
  if high == math.floor((latest - 1) / BLOCK ^ level) then
    counted[#fields] = (tonumber(counted[#fields]) or 0) + (latest - 1) % BLOCK + 1
  end
  return counted
end

-- The block of one level that the page begins in, among `lowest` to `highest`; `left` entries of it come before the page.
local function find(level, lowest, highest)
  for high = highest, lowest, -CHUNK do
    local low = math.max(lowest, high - CHUNK + 1)
    local counted = sizes(level, low, high)
    for block = high, low, -1 do
      local held = tonumber(counted[block - low + 1]) or 0
      if left < held then return block end
      left = left - held
    end
  end
  return lowest
end

local block
for level = LEVELS, 1, -1 do
  local width = BLOCK ^ level
  local lowest, highest = math.floor((oldest - 1) / width), math.floor((latest - 1) / width)
  if block then lowest, highest = math.max(lowest, block * BLOCK), math.min(highest, block * BLOCK + BLOCK - 1) end
  block = find(level, lowest, highest)
end
local ids = {}
for place, entry in ipairs(redis.call('XREVRANGE', KEYS[1], text((block + 1) * BLOCK), '-', 'COUNT', left + size)) do
  if place > left then ids[#ids + 1] = entry[2][2] end
end
return { total, ids }
