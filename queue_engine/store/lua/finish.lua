-- End a task by its running attempt: store result, state, indexes, counts and the outbox entry of the webhook.
--
-- flags: allow-oom, durable
-- keys of a task: task
-- arguments: token text, state_after text (succeeded, failed, timed_out, dead or cancelled), value bytes (output or error)
-- replies:
--   OK: created_ms integer, started_ms integer, now_ms integer
--   ALREADY (this attempt has ended the task before)
--   FENCED (another attempt has the task)
--   GONE
local state, holder, created, started = unpack(redis.call('HMGET', task, 'state', 'token', 'created', 'started'))
if not state then return { 'GONE' } end
local now = now_ms()
if state ~= 'running' or holder ~= token then
  if TERMINAL[state] and holder == token then return { 'ALREADY' } end
  if not readopt(task, token, now) then return { 'FENCED' } end
end

end_task(now, 'running', state_after, value)
return { 'OK', created, started, text(now) }
