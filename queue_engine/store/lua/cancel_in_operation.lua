-- Cancel a task for an operation: see change_in_operation.
--
-- flags: allow-oom
-- keys of a task: (those of cancel_task)
-- keys: operation, todo
-- arguments: delivery_statuses text (that the task may have, separated by spaces; empty: any), states list of text (that it may be
--   in; none: any)
-- replies:
--   OK: result text
--   STALE (the operation has ended, or another process has changed the task)
local result = change_in_operation(operation, todo, cancel_task, false, states, delivery_statuses)
if not result then return { 'STALE' } end
return { 'OK', result }
