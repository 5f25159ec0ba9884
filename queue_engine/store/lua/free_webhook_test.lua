-- Free the slot of a tenant that a test of a webhook has, so that the tenant can send another test.
--
-- flags: allow-oom
-- keys: slot
-- arguments: test_id text
-- replies:
--   OK
--   HELD (another test has the slot, or no test)
if redis.call('GET', slot) ~= test_id then return { 'HELD' } end
redis.call('DEL', slot)
return { 'OK' }
