#!lua flags=allow-oom
-- Revoke an API key for good.
-- KEYS 1 key 2 all keys 3 revoked keys
-- ARGV 1 hash of the key
-- Reply {'OK'}
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
return { 'OK' }
