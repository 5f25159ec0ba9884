-- Take a token for a submission from the bucket of its API key and from that of its tenant: from both or from none. Not allowed at
-- maxmemory, where no submission is accepted. A call that is repeated after a lost reply may take a second token.
--
-- keys: rates (the tenant's buckets)
-- arguments: key_id text, key_limit integer (tokens per second; 0 for no limit), tenant_limit integer (as key_limit)
-- replies:
--   OK: key_left integer, tenant_left integer (0 for a bucket without a limit)
--   KEY (the key's bucket is empty)
--   TENANT (the tenant's bucket is empty)
local now = now_us()
local buckets = redis.call('HMGET', rates, 'key:' .. key_id, 'tenant')
local taken, key_left, tenant_left = {}, 0, 0
if key_limit > 0 then
  local bucket = nil
  bucket, key_left = take_token(buckets[1], key_limit, now)
  if not bucket then return { 'KEY' } end
  taken = { 'key:' .. key_id, bucket }
end
if tenant_limit > 0 then
  local bucket = nil
  bucket, tenant_left = take_token(buckets[2], tenant_limit, now)
  if not bucket then return { 'TENANT' } end
  taken[#taken + 1] = 'tenant'
  taken[#taken + 1] = bucket
end
if #taken > 0 then
  redis.call('HSET', rates, unpack(taken))
  -- Every bucket is full a second after its last token, so that an absent one is equivalent.
  redis.call('PEXPIRE', rates, RATES_MS)
end
return { 'OK', key_left, tenant_left }
