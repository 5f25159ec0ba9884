-- Read a page of an index, newest first. The search descends the levels of blocks and does not read the entries before the page.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: counts
-- keys: stream (of the index)
-- arguments: index text (all, success, delivered or failed), offset integer (entries before the page), limit integer
-- replies:
--   OK: total integer (entries in the index), task_ids list of text
local total = redis.call('XLEN', stream)
local size = math.min(limit, total - offset)
if size <= 0 then return { 'OK', total, {} } end

-- Number of blocks whose gaps one command reads.
local STRIDE = 4

-- Find the block of a level that has the entry with `left` newer entries, among the numbers `low` to `high`, which have `held`
-- entries. The search begins at the nearer end. Return the block's lowest and highest number, the number of its entries, and
-- how many of them are newer.
local function find(level, low, high, held, left)
  local wide, prefix, fields = width(level), index .. ':' .. level .. ':', {}
  local block, last, step, bottom, top = block_of(high, level), block_of(low, level), -1, low, high
  local is_nearer_to_the_oldest = left > held / 2
  if is_nearer_to_the_oldest then block, last, step, left = last, block, 1, held - 1 - left end
  while true do
    for place = 1, STRIDE do fields[place] = prefix .. block + (place - 1) * step end
    for _, gaps in ipairs(redis.call('HMGET', counts, unpack(fields))) do
      bottom, top = block * wide + 1, (block + 1) * wide
      if bottom < low then bottom = low end
      if top > high then top = high end
      local entries = top - bottom + 1 - (gaps or 0)
      if left < entries or block == last then
        return bottom, top, entries, is_nearer_to_the_oldest and entries - 1 - left or left
      end
      left, block = left - entries, block + step
    end
  end
end

-- Return a number at or above the page's first entry, and how many entries from it downwards come before the page.
local function go_down()
  local low, high = index_oldest(stream), tonumber(redis.call('HGET', counts, 'seq:' .. index))
  local held, left = total, offset
  for level = LEVELS, 1, -1 do
    if held == high - low + 1 then return high - left, 0 end
    if block_of(low, level) < block_of(high, level) then low, high, held, left = find(level, low, high, held, left) end
  end
  return high, left
end

local ids = {}
local before_end = total - offset - size
if before_end < BLOCK and before_end < offset then
  local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', before_end + size)
  for place = #entries, before_end + 1, -1 do ids[#ids + 1] = entries[place][2][2] end
else
  local last, left = '+', offset
  if offset >= BLOCK then last, left = go_down() end
  local entries = redis.call('XREVRANGE', stream, last, '-', 'COUNT', left + size)
  for place = left + 1, #entries do ids[#ids + 1] = entries[place][2][2] end
end
return { 'OK', total, ids }
