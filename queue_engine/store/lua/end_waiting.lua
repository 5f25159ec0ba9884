-- End a task of an endpoint that is being deleted: a waiting task, or one that its worker has not released.
--
-- flags: allow-oom
-- keys of a task: task, live
-- arguments: error_text text
-- replies:
--   OK
--   GONE (the task has ended or does not exist)
local state = redis.call('HGET', task, 'state')
if not state or TERMINAL[state] then
  local _, task_id = names_of(task)
  redis.call('ZREM', live, task_id)
  return { 'GONE' }
end
stop_waiting()
redis.call('HDEL', task, 'token')
end_task(now_ms(), state, 'failed', error_text)
return { 'OK' }
