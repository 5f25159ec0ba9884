-- End sessions of the web console.
--
-- flags: allow-oom
-- keys: index (of the key's sessions), records list
-- arguments: hashes list of text
-- replies:
--   OK
for _, record in ipairs(records) do redis.call('DEL', record) end
for _, hash in ipairs(hashes) do redis.call('ZREM', index, hash) end
return { 'OK' }
