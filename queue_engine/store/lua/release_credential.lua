#!lua flags=allow-oom
-- Note that an endpoint uses a credential no more.
-- KEYS 1 the credential's users
-- ARGV 1 endpoint id
-- Reply {'OK'}
redis.call('ZREM', KEYS[1], ARGV[1])
return { 'OK' }
