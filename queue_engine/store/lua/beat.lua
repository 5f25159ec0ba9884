#!lua flags=allow-oom
-- Renew the leases of all tasks of one agent.
-- KEYS 1 leases 2 retry queue 3 endpoint counts 4 partition counts 5.. tasks
-- ARGV 1 lease in ms, then for each task: member, token
-- Reply one word a task: OK | READOPTED the lease had run out and is held again | CANCEL it is held and is to be stopped
--       | FENCED another attempt has it | GONE
local now = now_ms()
local lease_end = now + tonumber(ARGV[1])
local words = {}
for index = 5, #KEYS do
  local member, token = ARGV[2 * (index - 5) + 2], ARGV[2 * (index - 5) + 3]
  local state, holder, cancel = unpack(redis.call('HMGET', KEYS[index], 'state', 'token', 'cancel'))
  local word = 'FENCED'
  if not state then
    word = 'GONE'
  elseif state == 'running' and holder == token then
    redis.call('ZADD', KEYS[1], text(lease_end), member)
    word = cancel and 'CANCEL' or 'OK'
  elseif readopt(KEYS[index], KEYS[2], KEYS[1], KEYS[3], KEYS[4], member, token, lease_end) then
    word = 'READOPTED'
  end
  words[#words + 1] = word
end
return words
