-- Append lines to a worker's log, and extend its retention. A call without lines only extends the retention. Not allowed at
-- maxmemory, so that logs take no memory from tasks.
--
-- keys of a worker: log, logs, endpoint, workers
-- arguments: worker_id text, batch_id text, after optional text (batch with which the log must end, `none` for a log without
--   lines; any batch when absent), retention_ms integer, lines list of text
-- replies:
--   OK: surplus list of text (ids of ended workers whose logs exceed the limit)
--   ALREADY (this batch was appended before)
--   MOVED (the log ends with another batch)
--   GONE (there is no such endpoint)
if redis.call('EXISTS', endpoint) == 0 then return { 'GONE' } end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local last_batch = last and last[2][4] or 'none'
if last_batch == batch_id then return { 'ALREADY' } end
if after and after ~= last_batch then return { 'MOVED' } end
local before = last and log_bytes(log) or 0
for index, line in ipairs(lines) do
  if index < #lines then
    redis.call('XADD', log, 'MAXLEN', '~', MAX_LINES, '*', 'l', line)
  else
    redis.call('XADD', log, 'MAXLEN', '~', MAX_LINES, '*', 'l', line, 'b', batch_id)
  end
end
if redis.call('EXISTS', log) == 0 then return { 'OK', {} } end

local bytes = log_bytes(log)
if bytes > MAX_LOG_BYTES then
  redis.call('XTRIM', log, 'MAXLEN', math.floor(redis.call('XLEN', log) * 0.9 * MAX_LOG_BYTES / bytes))
  bytes = log_bytes(log)
end
if bytes ~= before then add_use('logs', bytes - before) end

local now = now_ms()
redis.call('PEXPIRE', log, retention_ms)
redis.call('ZADD', logs, text(now), worker_id)
redis.call('ZREMRANGEBYSCORE', logs, '-inf', text(now - retention_ms))
redis.call('PEXPIRE', logs, retention_ms)

-- Workers that crash repeatedly must not fill the store with their logs.
local surplus = {}
local count = redis.call('ZCARD', logs) - redis.call('HLEN', workers) - MAX_ENDED_LOGS
if count > 0 then
  for _, name in ipairs(redis.call('ZRANGE', logs, 0, 99)) do
    if #surplus < count and redis.call('HEXISTS', workers, name) == 0 then surplus[#surplus + 1] = name end
  end
end
return { 'OK', surplus }
