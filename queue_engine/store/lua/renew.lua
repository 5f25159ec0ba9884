-- Renew the leases of tasks of an agent, and note which calls have begun.
--
-- label: beat
-- flags: allow-oom
-- keys of an endpoint: leases
-- keys: tasks list
-- arguments: lease_ms integer, begun integer (the number of tasks, from the first, whose calls have begun),
--   tokens list of text (in the order of the tasks)
-- replies:
--   OK: words list of text (for each task: OK; READOPTED when the lease had expired and is held again; CANCEL when the lease is
--     renewed and the task must be stopped; FENCED when another attempt has the task; GONE)
local now = now_ms()
local lease_end = now + lease_ms
local words = {}
for index, task_key in ipairs(tasks) do
  local token = tokens[index]
  local state, holder, cancel, ahead = unpack(redis.call('HMGET', task_key, 'state', 'token', 'cancel', 'ahead'))
  local word = 'FENCED'
  if not state then
    word = 'GONE'
  elseif state == 'running' and holder == token then
    redis.call('ZADD', leases, text(lease_end), (names_of(task_key)))
    word = cancel and 'CANCEL' or 'OK'
  elseif readopt(task_key, token, lease_end) then
    word = 'READOPTED'
  end
  if ahead and index <= begun and word ~= 'FENCED' then redis.call('HDEL', task_key, 'ahead') end
  words[index] = word
end
return { 'OK', words }
