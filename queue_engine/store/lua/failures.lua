-- Read the signatures of failed tasks' errors. A call gets few tasks, because a signature takes tens of microseconds.
--
-- flags: no-writes, allow-oom
-- keys of a task: task, body, result
-- keys: more list (the same keys of each further task)
-- arguments: places list of text (of the tasks, in the order of creation)
-- replies:
--   OK: failures list of list of bytes (of each that is still a failed one: its index from 1, its state, the time of its end, the
--     signature of its error, and the first 512 bytes of the error, which are empty if the call has them of another task with
--     the signature)
local failures, seen = {}, {}

for index, place in ipairs(places) do
  if index > 1 then task, body, result = unpack(more, index * 3 - 5, index * 3 - 3) end
  local seq, state, finished = unpack(redis.call('HMGET', task, 'seq', 'state', 'finished'))
  -- The task of an entry may have expired, run again, or been submitted again with its id.
  if seq == place and TERMINAL[state] and state ~= 'succeeded' then
    local message = read_result(512)
    local signature = signature_of(message)
    failures[#failures + 1] = { text(index), state, finished, signature, seen[signature] and '' or message }
    seen[signature] = true
  end
end
return { 'OK', failures }
