-- Take endpoints of a partition whose deletion is to be attempted now. If the caller dies, they are due again after the hold.
--
-- flags: allow-oom
-- keys of a partition: deletions
-- arguments: limit integer
-- replies:
--   OK: now_ms integer, held_until_ms integer, endpoint_ids list of text
local now, held_until, ids = take_due(deletions, DELETION_HOLD_MS, MAX_DELETION_MS, limit)
return { 'OK', now, held_until, ids }
