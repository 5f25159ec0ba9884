-- Write a mark, so that a wait for replicas or a disk covers all earlier writes, also those of other processes.
--
-- flags: allow-oom, durable
-- keys: mark (in the slot of the earlier writes)
-- replies:
--   OK
redis.call('SET', mark, '1', 'PX', 60000)
return { 'OK' }
