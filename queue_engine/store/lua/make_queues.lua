#!lua flags=allow-oom
-- Make the groups of an endpoint's queues where they are missing: the store has come back without them. An agent that outlives
-- its endpoint must not leave queues behind.
-- KEYS 1 endpoint 2 queue 3 retry queue
-- ARGV none
-- Reply {'OK'} | {'GONE'} there is no such endpoint
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'GONE' } end
for index = 2, 3 do redis.pcall('XGROUP', 'CREATE', KEYS[index], 'agents', '0', 'MKSTREAM') end
return { 'OK' }
