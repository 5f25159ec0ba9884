-- Let the leading controller look at an endpoint's workers in its next round.
--
-- flags: allow-oom
-- keys of an endpoint: endpoint, due_checks
-- replies:
--   OK
redis.call('ZADD', due_checks, 'LT', text(now_ms()), id_of_endpoint(endpoint))
return { 'OK' }
