#!lua
-- Append lines to a worker's log. Not allowed at maxmemory: logs give way to tasks. Without lines, only say that the
-- worker lives.
-- KEYS 1 log 2 logs of the endpoint 3 endpoint 4 workers
-- ARGV 1 worker id 2 batch id 3 retention in ms 4 most lines 5 most nodes of the stream 6 most logs of ended workers
--      7.. lines
-- Reply {'OK', ids of ended workers whose logs are too many..} | {'ALREADY'} this batch is there | {'GONE'} no endpoint
if redis.call('EXISTS', KEYS[3]) == 0 then return { 'GONE' } end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[2][4] == ARGV[2] then return { 'ALREADY' } end
for index = 7, #ARGV do
  if index < #ARGV then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'l', ARGV[index])
  else
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'l', ARGV[index], 'b', ARGV[2])
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'OK' } end

-- A node of a stream holds at most `stream-node-max-bytes`, so their number bounds the size.
local facts = redis.call('XINFO', 'STREAM', KEYS[1])
for index = 1, #facts, 2 do
  if facts[index] == 'radix-tree-keys' and facts[index + 1] > tonumber(ARGV[5]) then
    local kept = math.floor(redis.call('XLEN', KEYS[1]) * 0.9 * tonumber(ARGV[5]) / facts[index + 1])
    redis.call('XTRIM', KEYS[1], 'MAXLEN', kept)
  end
end

local now = now_ms()
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], text(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - tonumber(ARGV[3])))
redis.call('PEXPIRE', KEYS[2], ARGV[3])

-- An endpoint whose workers crash again and again must not fill the store with their logs.
local reply = { 'OK' }
local surplus = redis.call('ZCARD', KEYS[2]) - redis.call('HLEN', KEYS[4]) - tonumber(ARGV[6])
if surplus > 0 then
  for _, worker in ipairs(redis.call('ZRANGE', KEYS[2], 0, 99)) do
    if #reply <= surplus and redis.call('HEXISTS', KEYS[4], worker) == 0 then reply[#reply + 1] = worker end
  end
end
return reply
