#!lua flags=allow-oom
-- Put a delivery whose wait is over into the outbox.
-- KEYS 1 delivery 2 outbox 3 outbox due or outbox parked, where it waits
-- ARGV 1 delivery id
-- Reply {'OK'} | {'STALE'} not due, or ended
local now = now_ms()
local due = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]) or '')
if due == nil or due > now then return { 'STALE' } end
redis.call('ZREM', KEYS[3], ARGV[1])
local destination = redis.call('HGET', KEYS[1], 'destination')
if not destination then return { 'STALE' } end
redis.call('HSET', KEYS[1], 'entry', redis.call('XADD', KEYS[2], '*', 'd', ARGV[1], 'h', destination))
return { 'OK' }
