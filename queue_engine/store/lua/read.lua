#!lua flags=no-writes,allow-oom
-- Read one task.
-- KEYS 1 task 2 input 3 result
-- ARGV 1 'all' for input and output too, else 'brief'
-- Reply {fields and values, spec (and input), error (and output)} | {} when there is none
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return {} end
local state, spec = unpack(redis.call('HMGET', KEYS[1], 'state', 'spec'))
if ARGV[1] == 'all' then
  return { fields, redis.call('GET', KEYS[2]) or '', redis.call('GET', KEYS[3]) or '' }
end
local result = ''
if TERMINAL[state] and state ~= 'succeeded' then result = redis.call('GET', KEYS[3]) or '' end
return { fields, redis.call('GETRANGE', KEYS[2], 0, tonumber(spec) - 1), result }
