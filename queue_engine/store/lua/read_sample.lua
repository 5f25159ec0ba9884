-- Read what a sample of an endpoint's figures needs: its counts, the time of its oldest queued task, the newest tasks that ended since
-- the sample before, and records that are kept.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: endpoint, counts, series, finished_success, finished_delivered, finished_failed
-- arguments: limit integer (of ended tasks of each status), record_bytes integer, offsets list of integer (of the kept records)
-- replies:
--   OK: tenant text, now_ms integer, created_ms integer, concurrency integer, sampled text (the totals of the sample before; empty
--     without one), oldest_ms optional integer, figures list of integer (submitted, succeeded, failed and delivered since ever; queued,
--     running, scheduled and undelivered tasks; running workers; the latest numbers in the indexes of succeeded and of failed tasks),
--     ended list of list of text (of each task: the time of its entry, its id and its place in the order of creation), kept list of
--     bytes
--   GONE (the endpoint is being deleted, or there is none)
local tenant, desired, created_at, config = unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'created', 'config'))
if not tenant or desired == 'deleted' then return { 'GONE' } end
local figures = redis.call('HMGET', counts, 'seq:all', 'seq:success', 'seq:failed', 'seq:delivered', 'queued', 'running', 'scheduled',
  'deliveries', 'workers:RUNNING', 'again:success', 'again:failed')
for index = 1, 11 do figures[index] = figures[index] or '0' end
-- A task whose result is sent again, or that is kept because its delivery has not ended, gets another number in its index.
for index = 2, 3 do
  local latest, again = figures[index], figures[index + 8]
  figures[index], figures[index + 8] = text(latest - again), latest
end

local sampled = redis.call('HGET', counts, 'sampled') or ''
local ended, before = {}, {}
for number in string.gmatch(sampled, '%d+') do before[#before + 1] = tonumber(number) end
-- Without numbers in the indexes, the sample before is that of a new endpoint, or from before they were kept.
local passed = { before[6] or before[3], before[7] or before[4], before[5] }
local latest = { tonumber(figures[10]), tonumber(figures[11]), tonumber(figures[4]) }
for index, stream in ipairs(#before > 0 and { finished_success, finished_failed, finished_delivered } or {}) do
  -- Without further entries, nothing is read from the stream.
  if latest[index] > passed[index] then
    for _, entry in ipairs(redis.call('XREVRANGE', stream, '+', text(passed[index] + 1), 'COUNT', limit)) do
      ended[#ended + 1] = { string.match(entry[1], '%d+$'), entry[2][2], entry[2][4] or '' }
    end
  end
end

local kept = {}
for index, offset in ipairs(offsets) do kept[index] = redis.call('GETRANGE', series, offset, offset + record_bytes - 1) end
local oldest = tonumber(figures[5]) > 0 and oldest_queued()
return { 'OK', tenant, text(now_ms()), created_at, cjson.decode(config).concurrency or 1, sampled, oldest and text(oldest), figures,
  ended, kept }
