-- Takes hits from the buckets of several requests, each request as one atomic step.
--
-- KEYS: the buckets, each once.
-- ARGV[1]: 36 bytes for each take, in the order of the requests (ratelimit/stores/redis.py, `_encode`):
--   the position of its key (16 bits, from 1), its flags (8 bits, below), the kind of bucket (8 bits:
--   0 token bucket, 1 fixed window), then as doubles: capacity or limit, hits, and for a token bucket the
--   tokens of a refill; then its period or window in microseconds.
-- Returns the time of Redis as seconds and microseconds, then what was stored for each key, or nil. The caller
-- computes the outcomes from that with the functions that the memory store uses (common/buckets.py,
-- ratelimit/stores/take_all.py); this script only makes the same change of state, with the same numbers.
--
-- Every key is read before the first is written, so a call that is refused (a key that holds a list, a server
-- that may not write) has charged nothing. A key that changes is written once.
--
-- Stored: "TOKENS PARTS TIME_US" (parts of a token, one being 1/period) or "COUNT WINDOW_START_US".
-- Every number is a whole number below 2^53, so that doubles hold it exactly. Needs Redis 5: before it,
-- a script that read the clock could not write.

local CHARGE_REJECTED, ENFORCE, QUOTA, LAST = 1, 2, 4, 8
local EXACT = 9007199254740992
local MAX_COUNT = 1125899906842624
local SPARE_MS = 1000
local MAX_TTL_MS = 315360000000

-- floor(a * b / m) and what is left, exactly, where a * b may pass 2^53: digit by digit in base 8.
-- a < 2^51, b < 2^32, m < 2^49.
local function divide_product(a, b, m)
  local product = a * b
  if product < EXACT then
    local left = product % m
    return (product - left) / m, left
  end
  local quotient, left = 0, 0
  local base = 281474976710656 -- 8^16
  while base >= 1 do
    local digit = math.floor(a / base) % 8
    local step = left * 8 + digit * b
    left = step % m
    quotient = quotient * 8 + (step - left) / m
    base = base / 8
  end
  return quotient, left
end

-- A state is a table {text stored}: parsed once by the first take that needs it, replaced when it changes.

local function token_state(state, now, bucket)
  local tokens, parts, at = state[1], state[2], state[3]
  if not tokens then
    return bucket.size, 0, now, false
  end
  local elapsed = now - at
  if elapsed > 0 then
    if elapsed * bucket.refill / bucket.period > bucket.size - tokens + 1 then
      return bucket.size, 0, at, false
    end
    local more, left = divide_product(elapsed, bucket.refill, bucket.period)
    parts = parts + left
    tokens = tokens + more + math.floor(parts / bucket.period)
    parts = parts % bucket.period
  end
  if tokens >= bucket.size then
    tokens, parts = bucket.size, 0
  end
  return tokens, parts, at, elapsed < 0
end

local function take_tokens(state, now, bucket, hits)
  local tokens, parts, _, stepped_back = token_state(state, now, bucket)
  local before_tokens, before_parts = tokens, parts
  local allowed = hits < 0 or tokens >= hits
  if allowed or bucket.charge_rejected then
    tokens = tokens - hits
    if tokens >= bucket.size then
      tokens, parts = bucket.size, 0
    elseif tokens < -bucket.size then
      tokens, parts = -bucket.size, 0
    end
  end
  if tokens == before_tokens and parts == before_parts and not stepped_back then
    return allowed, state
  end
  return allowed, { tokens, parts, now, ttl_ms = (bucket.size - tokens) * bucket.period / bucket.refill / 1000 }
end

local function count_window(state, now, bucket, hits)
  local start = now - now % bucket.period
  local before = state[2] == start and state[1] or 0
  local after = math.min(MAX_COUNT, math.max(0, before + hits))
  local allowed = hits < 0 or after <= bucket.size
  if after == before or not (allowed or bucket.charge_rejected) then
    return allowed, state
  end
  return allowed, { after, start, ttl_ms = (start + bucket.period - now) / 1000 }
end

local KINDS = {
  [0] = { take = take_tokens, pattern = '^(-?%d+) (%d+) (%d+)$', format = '%.0f %.0f %.0f' },
  [1] = { take = count_window, pattern = '^(%d+) (%d+)$', format = '%.0f %.0f' },
}

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local answer = { time[1], time[2] }
for i = 1, #KEYS do
  local found = redis.pcall('GET', KEYS[i])
  if type(found) == 'table' then
    return { err = found.err .. ' (key ' .. i .. ')' }
  end
  answer[i + 2] = found
end

local states = {} -- by position of the key
local kinds = {}

local function state_of(take)
  local state = states[take.position]
  if not state then
    state = {}
    local text = answer[take.position + 2]
    if text then
      local a, b, c = string.match(text, KINDS[take.kind].pattern)
      state = { tonumber(a), tonumber(b), tonumber(c) }
    end
    states[take.position], kinds[take.position] = state, KINDS[take.kind]
  end
  return state
end

local function apply(take)
  local allowed, state = KINDS[take.kind].take(state_of(take), now, take, take.hits)
  states[take.position] = state
  return allowed
end

-- Charges the takes of one request: all, or those alone that always charge if the request is refused.
local function charge(takes)
  local before = {}
  for _, take in ipairs(takes) do
    before[take.position] = before[take.position] or state_of(take)
  end
  local refused, quotas, quotas_over = false, 0, 0
  for _, take in ipairs(takes) do
    local allowed = apply(take)
    if take.quota then
      quotas = quotas + 1
      quotas_over = quotas_over + (allowed and 0 or 1)
    elseif take.enforce and not allowed then
      refused = true
    end
  end
  if #takes == 1 or not (refused or (quotas > 0 and quotas == quotas_over)) then
    return
  end
  for position, state in pairs(before) do
    states[position] = state
  end
  for _, take in ipairs(takes) do
    if take.charge_rejected or take.hits < 0 then
      apply(take)
    end
  end
end

local takes, at, size = {}, 1, #ARGV[1]
while at <= size do
  local position, flags, kind, bucket_size, hits, refill, period
  position, flags, kind, bucket_size, hits, refill, period, at = struct.unpack('<HBBdddd', ARGV[1], at)
  takes[#takes + 1] = {
    position = position,
    kind = kind,
    size = bucket_size,
    hits = hits,
    refill = refill,
    period = period,
    charge_rejected = flags % 2 >= CHARGE_REJECTED,
    enforce = flags % 4 >= ENFORCE,
    quota = flags % 8 >= QUOTA,
  }
  if flags >= LAST then
    charge(takes)
    takes = {}
  end
end

for position, state in pairs(states) do
  if state.ttl_ms then
    local text = string.format(kinds[position].format, state[1], state[2], state[3])
    local ttl_ms = math.min(MAX_TTL_MS, math.ceil(state.ttl_ms) + SPARE_MS)
    redis.call('SET', KEYS[position], text, 'PX', string.format('%.0f', ttl_ms))
  end
end
return answer
