-- Write something: what waits for replicas or a disk waits for everything before this, whichever process wrote it.
--
-- flags: allow-oom, durable
-- keys: mark (beside the keys that matter)
-- replies:
--   OK
redis.call('SET', mark, '1', 'PX', 60000)
return { 'OK' }
