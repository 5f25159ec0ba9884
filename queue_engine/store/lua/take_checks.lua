-- Take endpoints of a partition whose workers are to be looked at now. If the caller dies, they are due again after the hold. A
-- change of such an endpoint makes it due at once, so that plan_check.lua notices the change.
--
-- flags: allow-oom
-- keys of a partition: due_checks
-- arguments: hold_ms integer, limit integer
-- replies:
--   OK: held_until_ms integer, endpoint_ids list of text
local _, held_until, ids = take_due(due_checks, hold_ms, MAX_CHECK_MS, limit)
return { 'OK', held_until, ids }
