#!lua flags=allow-oom
-- Remove a credential, unless a user of it was noted lately. Whether one that was noted earlier still uses it is for the
-- caller to look at before.
-- KEYS 1 credential 2 its users 3 the tenant's credentials
-- ARGV 1 tenant 2 credential id 3 for how long a note counts by itself, ms
-- Reply {'OK'} | {'IN_USE'} | {'NOT_FOUND'}
if redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[1] then return { 'NOT_FOUND' } end
if redis.call('ZCOUNT', KEYS[2], '(' .. text(now_ms() - tonumber(ARGV[3])), '+inf') > 0 then return { 'IN_USE' } end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
return { 'OK' }
