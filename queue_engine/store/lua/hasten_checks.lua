-- Let the leading controller look at endpoints of a partition at once that it would look at later.
--
-- flags: allow-oom
-- keys of a partition: due_checks
-- arguments: limit integer
-- replies:
--   OK: hastened integer
local now = text(now_ms())
local ids = redis.call('ZRANGEBYSCORE', due_checks, '(' .. now, '+inf', 'LIMIT', 0, limit)
for _, id in ipairs(ids) do redis.call('ZADD', due_checks, now, id) end
return { 'OK', #ids }
