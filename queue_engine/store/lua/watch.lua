-- Ask for a message to a process when a task ends. The task keeps the ids of the processes that watch it, up to seven. Beyond that
-- the message goes to all processes, because a value of more than 64 bytes would make the hash no longer compact.
--
-- flags: allow-oom
-- keys of a task: task
-- arguments: process text (its id of 8 characters)
-- replies:
--   WAITING
--   ENDED
--   GONE
local state, watchers = unpack(redis.call('HMGET', task, 'state', 'watchers'))
if not state then return { 'GONE' } end
if TERMINAL[state] then return { 'ENDED' } end
if not watchers then
  redis.call('HSET', task, 'watchers', process)
elseif watchers ~= '*' and not string.find(watchers, process, 1, true) then
  redis.call('HSET', task, 'watchers', #watchers < 56 and watchers .. ' ' .. process or '*')
end
return { 'WAITING' }
