-- Read the next tasks of an endpoint in the order of creation, from the index that has the fewest of those that can match.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: created, live, finished_success, finished_delivered, finished_failed, tags
-- arguments: source text (`all`; `live`: tasks that have not ended; `ended`: tasks with a status of the next three; `tag`),
--   success flag, delivered flag, failed flag, low integer (the first place), high integer (the last place),
--   is_oldest_first flag, limit integer,
--   max_sorted integer (entries of the indexes of `ended`; the index of all tasks is read if there are more), prefix text (of the tasks' ids; empty: any),
--   tag text (for the source `tag`)
-- replies:
--   OK: looked integer (the number of entries that were read), last integer (the place of the last of them; 0 without one),
--     is_end flag (no entry is left), found list of text (places and ids of the entries with the prefix, alternating)
local first, last = text(low), text(high)
local found, looked, last_place = {}, 0, 0

local function add(place, task_id)
  looked, last_place = looked + 1, place
  if prefix == '' or string.sub(task_id, 1, #prefix) == prefix then
    found[#found + 1] = place
    found[#found + 1] = task_id
  end
end

local function read_all()
  local entries = is_oldest_first and redis.call('XRANGE', created, first, last, 'COUNT', limit)
    or redis.call('XREVRANGE', created, last, first, 'COUNT', limit)
  for _, entry in ipairs(entries) do add(string.match(entry[1], '^%d+'), entry[2][2]) end
  return #entries < limit
end

local function read_live()
  local members = is_oldest_first and redis.call('ZRANGEBYSCORE', live, first, last, 'WITHSCORES', 'LIMIT', 0, limit)
    or redis.call('ZREVRANGEBYSCORE', live, last, first, 'WITHSCORES', 'LIMIT', 0, limit)
  for index = 1, #members, 2 do add(members[index + 1], members[index]) end
  return #members < 2 * limit
end

-- The members of a tag are in the order of places.
local function read_tagged()
  local from, to = '[' .. tag_entry(tag, low, ''), '(' .. tag_entry(tag, high + 1, '')
  local members = is_oldest_first and redis.call('ZRANGEBYLEX', tags, from, to, 'LIMIT', 0, limit)
    or redis.call('ZREVRANGEBYLEX', tags, to, from, 'LIMIT', 0, limit)
  for _, member in ipairs(members) do
    local place, task_id = string.match(member, '^%S+ 0*(%d+) (.+)$')
    add(place, task_id)
  end
  return #members < limit
end

-- The indexes by status are in the order of the tasks' ends, so all of their entries are read and sorted. A task may change its
-- entry while it is listed, but never its place.
local function read_ended(streams)
  local places, ids = {}, {}
  for _, stream in ipairs(streams) do
    for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
      local place = tonumber(entry[2][4])
      if place >= low and place <= high then
        places[#places + 1] = place
        ids[place] = entry[2][2]
      end
    end
  end
  table.sort(places)
  local total = #places
  for index = 1, math.min(limit, total) do
    local place = places[is_oldest_first and index or total + 1 - index]
    add(text(place), ids[place])
  end
  return total <= limit
end

local function streams_of_ended()
  local streams, entries = {}, 0
  if success then streams[#streams + 1] = finished_success end
  if delivered then streams[#streams + 1] = finished_delivered end
  if failed then streams[#streams + 1] = finished_failed end
  for _, stream in ipairs(streams) do entries = entries + redis.call('XLEN', stream) end
  return entries <= max_sorted and streams
end

local is_end = nil
if source == 'live' then
  is_end = read_live()
elseif source == 'tag' then
  is_end = read_tagged()
else
  local streams = source == 'ended' and streams_of_ended()
  if streams then is_end = read_ended(streams) else is_end = read_all() end
end
return { 'OK', looked, last_place, is_end and 1 or 0, found }
