-- Take endpoints of a partition that may have ended tasks or consumers to remove. If the caller dies, they are due again after the
-- hold. A worker that is removed during the purge makes its endpoint due earlier, so that plan_purge.lua notices it.
--
-- flags: allow-oom
-- keys of a partition: due_purges
-- arguments: limit integer
-- replies:
--   OK: now_ms integer, held_until_ms integer, endpoint_ids list of text
local now, held_until, ids = take_due(due_purges, PURGE_HOLD_MS, nil, limit)
return { 'OK', now, held_until, ids }
