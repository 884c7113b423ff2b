"""The scripts by which the Redis store writes and reads: each is atomic, and one round trip."""

from __future__ import annotations

from typing import Final

FIND_LIMIT: Final = 8
"""How many signers' transactions the index of one transactionID holds (the port's limit)."""

RECORD_LIMIT: Final = 4_194_304
"""Octets of the largest record: some ten messages at the largest limits. A larger one is not ours."""

MEMBER_LIMIT: Final = 160_000
"""Octets of the longest member of schedule and list: a transactionID of the default body limit, in hex."""

MARK_LIMIT: Final = 1024

# What another client left under a key of ours is not loaded to be looked at: type, number of fields and lengths first.
READING: Final = f"""
local function read(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return false end
  if kind ~= 'hash' or redis.call('HLEN', key) ~= 2
    or redis.call('HSTRLEN', key, 'version') > 20
    or redis.call('HSTRLEN', key, 'record') > {RECORD_LIMIT} then return {{'', ''}} end
  return {{redis.call('HGET', key, 'version') or '', redis.call('HGET', key, 'record') or ''}}
end
local function cleared(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' or kind == wanted then return 0 end
  redis.call('DEL', key)
  return 1
end
"""

# An index lives as long as the longest-lived transaction in it. Members whose hash has expired are
# removed only when their place is needed.
CREATE: Final = f"""{READING}
local live = read(KEYS[1])
if live then return live end
if ARGV[2] == '1' then return 'lost' end
local ttl = tonumber(ARGV[1])
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'record', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ttl)
cleared(KEYS[2], 'set')
if redis.call('SCARD', KEYS[2]) >= {FIND_LIMIT} then
  for _, key in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if string.sub(key, 1, #KEYS[2] + 1) ~= KEYS[2] .. ':' or redis.call('EXISTS', key) == 0 then
      redis.call('SREM', KEYS[2], key)
    end
  end
end
if redis.call('SCARD', KEYS[2]) < {FIND_LIMIT} then redis.call('SADD', KEYS[2], KEYS[1]) end
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return false
"""

# A place among a signer's transactions, taken before the transaction is stored, by a script of its own: they need not
# live in one cluster slot. One that was taken in vain is free again when the transaction would have expired. The pairs
# after the first are transactions that a node began unasked.
RESERVE: Final = f"""{READING}
cleared(KEYS[1], 'zset')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
for at = 6, #ARGV, 2 do redis.call('ZADD', KEYS[1], ARGV[at], ARGV[at + 1]) end
local has = redis.call('ZSCORE', KEYS[1], ARGV[5]) or redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[2])
if has then redis.call('ZADD', KEYS[1], 'NX', ARGV[4], ARGV[5]) end
local ttl = tonumber(ARGV[3])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return has and 1 or 0
"""

LOAD: Final = f"{READING} return read(KEYS[1])"

# A record that is not ours must not hold its key for longer than ours would. It always writes: WAIT waits for writes.
BOUND: Final = """
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[1]) then left = ARGV[1] end
return redis.call('PEXPIRE', KEYS[1], left)
"""

# The hash is written anew so that a field which the new version no longer has does not survive.
REPLACE: Final = f"""{READING}
local live = read(KEYS[1])
if not live then return false end
if live[1] ~= ARGV[2] or string.sub(live[2], 1, #ARGV[5]) ~= ARGV[5] then return live[1] end
local ttl = tonumber(ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'record', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ttl)
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return 1
"""

VERSION: Final = f"""{READING}
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return false end
if kind ~= 'hash' or redis.call('HSTRLEN', KEYS[1], 'version') > 20 then return '' end
return redis.call('HGET', KEYS[1], 'version') or ''
"""

FIND: Final = f"""{READING}
local found = {{}}
if redis.call('TYPE', KEYS[1]).ok ~= 'set' or redis.call('SCARD', KEYS[1]) > {FIND_LIMIT} then return found end
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local record = string.sub(key, 1, #KEYS[1] + 1) == KEYS[1] .. ':' and read(key)
  if record then found[#found + 1] = {{key, record[1], record[2]}} end
end
return found
"""

ADD: Final = f"""{READING}
local strange = cleared(KEYS[1], 'zset')
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
return strange
"""

DUE: Final = f"""{READING}
local found, strange = {{}}, cleared(KEYS[1], 'zset')
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  if #member > {MEMBER_LIMIT} then
    redis.call('ZREM', KEYS[1], member)
    strange = strange + 1
  else
    found[#found + 1] = member
  end
end
return {{strange, found}}
"""

REMOVE: Final = f"""{READING}
local strange = cleared(KEYS[1], 'zset')
redis.call('ZREM', KEYS[1], ARGV[1])
return strange
"""

HOLD: Final = f"""{READING}
local strange = cleared(KEYS[1], 'hash') + cleared(KEYS[2], 'zset')
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])) do
  redis.call('HDEL', KEYS[1], gone)
  redis.call('ZREM', KEYS[2], gone)
end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return {{strange, 0}}
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
return {{strange, 1}}
"""

HELD: Final = f"""{READING}
local found, strange = {{}}, cleared(KEYS[1], 'hash') + cleared(KEYS[2], 'zset')
for _, requester in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])) do
  local length = redis.call('HSTRLEN', KEYS[1], requester)
  if #requester > {MEMBER_LIMIT} or length == 0 or length > {MEMBER_LIMIT} then
    redis.call('HDEL', KEYS[1], requester)
    redis.call('ZREM', KEYS[2], requester)
    strange = strange + 1
  else
    found[#found + 1] = {{requester, redis.call('HGET', KEYS[1], requester)}}
  end
end
return {{strange, found}}
"""

UNHOLD: Final = f"""{READING}
local strange = cleared(KEYS[1], 'hash') + cleared(KEYS[2], 'zset')
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return strange
"""

# What is left of a rate (`rates.drawn`): the time of Redis, in microseconds, when nothing will be missing any more.
TAKE: Final = f"""{READING}
cleared(KEYS[1], 'string')
local wanted, owed, each, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local latest, full = now + burst * each, nil
if redis.call('STRLEN', KEYS[1]) <= 20 then full = tonumber(redis.call('GET', KEYS[1]) or '') end
if not (full and full >= now) then full = now end
full = math.min(full + owed * each, latest)
local count = math.max(0, math.min(wanted, math.floor((latest - full) / each + 0.05)))
local wait = 0
if count == 0 then wait = math.ceil(full + each - latest) end
full = math.ceil(full + count * each)
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1000)
return {{count, wait}}
"""

TEXT: Final = f"""
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return false end
if kind ~= 'string' or redis.call('STRLEN', KEYS[1]) > {MEMBER_LIMIT} then return '' end
return redis.call('GET', KEYS[1])
"""

PUT: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# Only in the place of what was read before: what is to be written was made of that.
PUT_AFTER: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

# The first node makes the mark, and whoever can open it puts it under the key that seals now.
MARK: Final = f"""
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1]) end
  return false
end
if kind ~= 'string' or redis.call('STRLEN', KEYS[1]) > {MARK_LIMIT} then return 'strange' end
return redis.call('GET', KEYS[1])
"""

REMARK: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""

COUNT: Final = """
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return 0 end
return redis.call('ZCOUNT', KEYS[1], ARGV[1], ARGV[2])
"""
"""Of what nobody of ours wrote, nothing counts; who reads the list next clears it away."""
