#!lua flags=no-writes,allow-oom
-- Read one task with the history of its attempts, so that no attempt is in both or in neither.
-- KEYS 1 task 2 body 3 result 4 history
-- ARGV none
-- Reply {fields and values, spec, error, {record (JSON), …}} | {} when there is none
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return {} end
local state, spec = unpack(redis.call('HMGET', KEYS[1], 'state', 'spec'))
local result = ''
if TERMINAL[state] and state ~= 'succeeded' then result = read_result(KEYS[1], KEYS[2], KEYS[3]) end
return { fields, redis.call('GETRANGE', KEYS[2], 0, tonumber(spec) - 1), result, redis.call('LRANGE', KEYS[4], 0, -1) }
