-- Claim waiting tasks for an agent, those of the retry queue first. Does not wait for a task.
--
-- flags: allow-oom
-- keys of an endpoint: retry_queue, queue
-- arguments: worker_id text, limit integer
-- replies:
--   OK: retried entries, new entries
local function claim(stream, count)
  local found = count > 0 and redis.call('XREADGROUP', 'GROUP', 'agents', worker_id, 'COUNT', count, 'STREAMS', stream, '>')
  return found and found[1][2] or {}
end
local retried = claim(retry_queue, limit)
return { 'OK', retried, claim(queue, limit - #retried) }
