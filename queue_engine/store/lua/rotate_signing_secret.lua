-- Give an endpoint a new signing secret. Its webhooks are signed with the replaced one too until the overlap ends.
--
-- flags: durable
-- keys of an endpoint: endpoint
-- arguments: tenant text, secret text (sealed), overlap_ms integer, max_replaced integer
-- replies:
--   OK: replaced_until_ms integer
--   FULL: free_at_ms integer (as many replaced secrets are in their overlap)
--   NOT_FOUND
local owner, desired, current, replaced, until_ms =
  unpack(redis.call('HMGET', endpoint, 'tenant', 'wanted', 'signing', 'signing_replaced', 'signing_replaced_until'))
if owner ~= tenant or desired == 'deleted' then return { 'NOT_FOUND' } end
if current == secret then return { 'OK', until_ms } end
local now, kept, first = now_ms(), {}, nil
for sealed, expires in string.gmatch(replaced or '', '(%S+) (%d+)') do
  if tonumber(expires) > now then
    kept[#kept + 1] = sealed .. ' ' .. expires
    first = expires
  end
end
if #kept >= max_replaced then return { 'FULL', first } end
until_ms = text(now + overlap_ms)
if current then table.insert(kept, 1, current .. ' ' .. until_ms) end
redis.call('HSET', endpoint, 'signing', secret, 'signing_replaced', table.concat(kept, ' '),
  'signing_replaced_until', until_ms)
return { 'OK', until_ms }
