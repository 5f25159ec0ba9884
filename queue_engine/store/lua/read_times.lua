-- Read for how long tasks that have ended waited and ran.
--
-- flags: no-writes, allow-oom
-- keys of a task: task
-- keys: more list (of further tasks)
-- arguments: since_ms integer, places list of text (of the tasks, in the order of creation)
-- replies:
--   OK: times list of integer (of each task that began and has ended at `since_ms` or later: its wait and the duration of its latest
--     attempt, in milliseconds)
local times = {}
for index, place in ipairs(places) do
  if index > 1 then task = more[index - 1] end
  local seq, state, created_at, run_at, started, finished =
    unpack(redis.call('HMGET', task, 'seq', 'state', 'created', 'run_at', 'started', 'finished'))
  -- The task of an entry may have expired, run again, or been submitted again with its id.
  if seq == place and TERMINAL[state] and started and tonumber(finished) >= since_ms then
    times[#times + 1] = text(math.max(0, started - (run_at or created_at)))
    times[#times + 1] = text(math.max(0, finished - started))
  end
end
return { 'OK', times }
