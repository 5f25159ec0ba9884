-- Find the first task of an endpoint that was created at a time or later, by binary search. The caller helps with an entry from
-- before entries had times: it reads the time from the task, and calls again with the places that are left.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: created
-- arguments: time_ms integer, low optional integer (place of the search; none: the oldest), high optional integer (the place after
--   the last one of the search)
-- replies:
--   OK: place integer (that of the task; if there is none, the place after the last)
--   ASK: low integer, high integer, place integer (of the entry without a time), task_id text
if not low then
  local oldest = index_oldest(created)
  if not oldest then return { 'OK', 1 } end
  low = oldest
  high = tonumber(string.match(redis.call('XREVRANGE', created, '+', '-', 'COUNT', 1)[1][1], '^%d+')) + 1
end
while low < high do
  local middle = math.floor((low + high) / 2)
  local entry = redis.call('XRANGE', created, text(middle), '+', 'COUNT', 1)[1]
  local place, time = string.match(entry and entry[1] or '', '^(%d+)-(%d+)$')
  place, time = tonumber(place), tonumber(time)
  if not place or place >= high then
    high = middle
  elseif time == 1 then
    return { 'ASK', text(low), text(high), text(place), entry[2][2] }
  elseif time >= time_ms then
    high = middle
  else
    low = place + 1
  end
end
return { 'OK', text(low) }
