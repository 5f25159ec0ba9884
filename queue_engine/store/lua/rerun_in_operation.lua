-- Queue an ended task again for an operation: see change_in_operation. Not allowed at maxmemory, because it is new work.
--
-- keys of a task: (those of run_task_again)
-- keys: operation, todo
-- arguments: delivery_statuses text (that the task may have, separated by spaces; empty: any), states list of text (that it may be
--   in; none: any)
-- replies:
--   OK: result text
--   STALE (the operation has ended, or another process has changed the task)
local result = change_in_operation(operation, todo, run_task_again, true, states, delivery_statuses)
if not result then return { 'STALE' } end
return { 'OK', result }
