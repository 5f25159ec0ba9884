-- Cancel a task for an operation: see change_in_operation.
--
-- flags: allow-oom
-- keys of a task: (those of cancel_task)
-- keys: operation, todo
-- arguments: states list of text (that the task may be in; none: any)
-- replies:
--   OK: result text
--   STALE (the operation has ended, or another process has changed the task)
local result = change_in_operation(operation, todo, cancel_task, false, states)
if not result then return { 'STALE' } end
return { 'OK', result }
