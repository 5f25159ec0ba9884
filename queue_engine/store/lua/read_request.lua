#!lua flags=no-writes,allow-oom
-- Read what tells whether a request is that of an accepted task.
-- KEYS 1 task 2 body
-- ARGV 1 limit of the input's length
-- Reply {fingerprint, input} | {fingerprint} when the input is longer | {} when there is no such task
local fingerprint, spec, last = unpack(redis.call('HMGET', KEYS[1], 'print', 'spec', 'result_at'))
if not fingerprint then return {} end
last = tonumber(last or redis.call('STRLEN', KEYS[2]))
if last - tonumber(spec) > tonumber(ARGV[1]) then return { fingerprint } end
return { fingerprint, redis.call('GETRANGE', KEYS[2], spec, last - 1) }
