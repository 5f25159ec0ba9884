#!lua flags=allow-oom
-- Write something: what waits for replicas or a disk waits for everything before this, whoever wrote it.
-- KEYS 1 mark, beside the keys that matter
-- ARGV none
-- Reply {'OK'}
redis.call('SET', KEYS[1], '1', 'PX', 60000)
return { 'OK' }
