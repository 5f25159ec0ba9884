-- Give up the leadership of a controller at once.
--
-- flags: allow-oom
-- keys: leader
-- arguments: controller_id text
-- replies:
--   OK
--   HELD (another controller has it, or no controller)
if redis.call('GET', leader) ~= controller_id then return { 'HELD' } end
redis.call('DEL', leader)
return { 'OK' }
