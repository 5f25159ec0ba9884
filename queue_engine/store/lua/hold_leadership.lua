-- Acquire or renew the leadership of a controller.
--
-- flags: allow-oom
-- keys: leader
-- arguments: controller_id text, lease_ms integer
-- replies:
--   OK
--   HELD (another controller has it)
local holder = redis.call('GET', leader)
if holder and holder ~= controller_id then return { 'HELD' } end
redis.call('SET', leader, controller_id, 'PX', lease_ms)
return { 'OK' }
