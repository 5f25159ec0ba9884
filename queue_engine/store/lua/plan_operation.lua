-- Note the tasks that an operation changes next, and its progress. Only the process that knows the number of the latest step may
-- do it, so that no step is made twice.
--
-- flags: allow-oom
-- keys: operation, todo, given_tasks
-- arguments: step integer, limit integer (of given tasks), scanned integer (tasks that were looked at), from_place optional integer (the
--   place from which the walk goes on), found list of text (task id and time of its end, 0 without one, of each task that matches)
-- replies:
--   OK: is_complete flag (no further task follows)
--   STALE (the operation has ended, or another process has made the step)
local state, at, filters = unpack(redis.call('HMGET', operation, 'state', 'step', 'filters'))
if state ~= 'running' or tonumber(at) ~= step then return { 'STALE' } end
local is_complete = not from_place
if filters == '' then
  local ids = redis.call('LPOP', given_tasks, limit) or {}
  -- Time -1: the end of a given task is not compared.
  for _, task_id in ipairs(ids) do found[#found + 1], found[#found + 2] = task_id, '-1' end
  scanned, is_complete = #ids, redis.call('EXISTS', given_tasks) == 0
end
for index = 1, #found, 2 do redis.call('ZADD', todo, 'NX', found[index + 1], found[index]) end
redis.call('HINCRBY', operation, 'scanned', scanned)
-- A given task is counted when it is changed or skipped, because there may be none with its id.
if filters ~= '' then redis.call('HINCRBY', operation, 'matched', #found / 2) end
redis.call('HSET', operation, 'step', step + 1, 'updated', text(now_ms()), 'after', from_place and text(from_place) or '',
  'complete', is_complete and 1 or 0)
return { 'OK', is_complete and 1 or false }
