#!lua flags=no-writes,allow-oom
-- Read one task.
-- KEYS 1 task 2 body 3 result
-- ARGV 1 'all' for input and output too, else 'brief'
-- Reply {fields and values, spec (and input), error (and output)} | {} when there is none
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return {} end
if ARGV[1] == 'all' then
  local body, place = redis.call('GET', KEYS[2]) or '', redis.call('HGET', KEYS[1], 'result_at')
  if place then return { fields, string.sub(body, 1, place), string.sub(body, place + 1) } end
  return { fields, body, redis.call('GET', KEYS[3]) or '' }
end
local state, spec = unpack(redis.call('HMGET', KEYS[1], 'state', 'spec'))
local result = ''
if TERMINAL[state] and state ~= 'succeeded' then result = read_result(KEYS[1], KEYS[2], KEYS[3]) end
return { fields, redis.call('GETRANGE', KEYS[2], 0, tonumber(spec) - 1), result }
