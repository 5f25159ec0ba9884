-- Queue an ended task again for an operation: see change_in_operation. Not allowed at maxmemory, because it is new work.
--
-- keys of a task: (those of run_task_again)
-- keys: operation, todo
-- arguments: states list of text (that the task may be in; none: any)
-- replies:
--   OK: result text
--   STALE (the operation has ended, or another process has changed the task)
local result = change_in_operation(operation, todo, run_task_again, true, states)
if not result then return { 'STALE' } end
return { 'OK', result }
