-- Count the entries of an endpoint's streams that agents have read and not started.
--
-- flags: no-writes, allow-oom
-- keys of an endpoint: retry_queue, queue, turn
-- replies:
--   OK: entries integer
local function pending(stream)
  return redis.call('XPENDING', stream, 'agents')[1]
end
return { 'OK', pending(retry_queue) + pending(queue) + pending(turn) }
