-- Record the status that an agent reports for its worker. The bell rings again if tasks are queued, because an agent may have
-- died after it heard the bell and before it claimed. An idle agent claims without the bell then, and looks for entries that a dead
-- agent has claimed.
--
-- flags: allow-oom
-- keys of a worker: worker, endpoint, counts
-- arguments:
--   reported text (its status), running_tasks integer, address text (of the container), reason text,
--   run integer (number of the worker's start, 0 when no controller started the agent), error_text optional text,
--   slots optional integer, mean_run_ms optional number (moving mean of its tasks; none from an agent that does not know it),
--   protocol integer (of the agent)
-- replies:
--   OK: desired text (the desired state of the endpoint), has_queued flag (tasks are queued), is_open flag (neither a pause nor a
--     rate limit can keep the agent from claiming them)
--   GONE (the worker or its endpoint does not exist, or the worker was started again, so the agent must end)
local desired, paused, rate_limit = unpack(redis.call('HMGET', endpoint, 'wanted', 'paused', 'rate_limit'))
-- Every idle agent reports every few seconds, so a report that changes nothing has as few commands as possible.
local before, managed, latest_run, last_report, error_before =
  unpack(redis.call('HMGET', worker, 'status', 'managed', 'run', 'beat', 'error'))
if not before or not desired then return { 'GONE' } end
if run ~= 0 and run ~= tonumber(latest_run or '') then return { 'GONE' } end
redis.call('HSET', worker, 'running', running_tasks, 'address', address, 'beat', text(now_ms()), 'slots', slots or '',
  'run_ms', mean_run_ms or '', 'protocol', protocol)
if not last_report then check_now() end -- the start of the worker no longer takes one of the backend's places
local status = reported
-- The controller's decision has priority: a worker that is being stopped does not become running again, and a worker that
-- crashes repeatedly stays failed until it runs.
if before == 'STOPPING' and managed == '1' and status ~= 'STOPPED' then status = before end
if before == 'FAILED' and status == 'INITIALIZING' then status = before end
if error_text and (status == 'RUNNING' or status == 'INITIALIZING' or status == 'FAILED') then
  redis.call('HSET', worker, 'error', error_text)
elseif status == 'RUNNING' and error_before then
  redis.call('HDEL', worker, 'error')
end
if status ~= before then change_status(status, reason) end
local has_queued = tonumber(redis.call('HGET', counts, 'queued') or '0') > 0
if has_queued and paused ~= '1' then ring_bell() end
return { 'OK', desired, has_queued, has_queued and paused ~= '1' and (rate_limit or '') == '' }
