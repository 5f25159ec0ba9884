-- End tasks of one endpoint by their running attempts: store results, states, indexes, counts and the outbox entries of webhooks.
--
-- flags: allow-oom, durable
-- keys of a task: task, body, result, history, delivery
-- keys: more list (the same keys of each further task)
-- arguments: ends list of bytes (of each task: the attempt's token; the state after it, which is succeeded, failed, timed_out,
--   dead or cancelled; the output or error)
-- replies:
--   OK: now_ms integer, words list of list of text (of each task: OK, with created_ms and started_ms; ALREADY when this attempt
--     has ended the task before; FENCED when another attempt has the task; GONE; ERROR and its text)
local now = now_ms()
local ended = {}
local function finish(token, state_after, value)
  local facts = read_to_end()
  local state, holder, created, started, run_at = unpack(facts, 11)
  if not state then return 'GONE' end
  if state ~= 'running' or holder ~= token then
    if TERMINAL[state] and holder == token then return 'ALREADY' end
    if not readopt(task, token, now) then return 'FENCED' end
    facts = nil -- they have changed
  end
  record_end(ended, now, state_after, value, facts)
  return 'OK', run_at or created, started
end

local words = {}
for index = 1, #ends, 3 do
  if index > 1 then
    local place = (index - 1) / 3 * 5 - 4
    task, body, result, history, delivery = unpack(more, place, place + 4)
  end
  words[#words + 1] = results_of(pcall(finish, ends[index], ends[index + 1], ends[index + 2]))
end
complete_ends(ended, now, 'running')
return { 'OK', text(now), words }
