-- Remove an ended task with all its data. A delivery of its result that has not ended is dropped.
--
-- flags: allow-oom, durable
-- keys of a task: (those of remove_task)
-- replies:
--   OK
--   BUSY (the task has not ended)
--   GONE
return { remove_task() }
