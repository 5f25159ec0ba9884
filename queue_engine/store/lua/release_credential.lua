-- Note that an endpoint no longer uses a credential.
--
-- flags: allow-oom
-- keys: users (of the credential)
-- arguments: endpoint_id text
-- replies:
--   OK
redis.call('ZREM', users, endpoint_id)
return { 'OK' }
