-- Takes hits from every bucket of one request, as one atomic step.
--
-- KEYS: one for each bucket.
-- ARGV: six for each bucket: kind ("t" token bucket, "w" fixed window), capacity or limit, refill
--       (tokens in a period; unused by windows), period or window in microseconds, hits, and "1" where
--       rejected hits are charged all the same.
-- Returns the time of Redis as seconds and microseconds, then for each bucket what was stored before, or
-- nil. The caller computes the outcome from that with the very functions the memory store uses
-- (ratelimit/buckets.py); this script only makes the same change of state, with the same numbers.
--
-- Every key is read before the first is written, so a call that is refused (a key that holds a list, a server
-- that may not write) has charged nothing.
--
-- Stored: "TOKENS PARTS TIME_US" (parts of a token, one being 1/period) or "COUNT WINDOW_START_US".
-- Every number is a whole number below 2^53, so that doubles hold it exactly. Needs Redis 5: before it,
-- a script that read the clock could not write.

local EXACT = 9007199254740992
local MAX_COUNT = 1125899906842624
local SPARE_MS = 1000
local MAX_TTL_MS = 315360000000

local stored = {} -- by key: what is there now; false where nothing is

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

local function keep(key, ttl_ms, format, ...)
  ttl_ms = math.min(MAX_TTL_MS, math.ceil(ttl_ms) + SPARE_MS)
  local text = string.format(format, ...)
  redis.call('SET', key, text, 'PX', string.format('%.0f', ttl_ms))
  stored[key] = text
end

local function take_tokens(key, stored, now, capacity, refill, period, hits, charge_rejected)
  local tokens, parts, at
  if stored then
    tokens, parts, at = string.match(stored, '^(-?%d+) (%d+) (%d+)$')
  end
  local stepped_back = false
  if tokens then
    tokens, parts, at = tonumber(tokens), tonumber(parts), tonumber(at)
    local elapsed = now - at
    stepped_back = elapsed < 0
    if elapsed > 0 then
      if elapsed * refill / period > capacity - tokens + 1 then
        tokens, parts = capacity, 0
      else
        local more, left = divide_product(elapsed, refill, period)
        parts = parts + left
        tokens = tokens + more + math.floor(parts / period)
        parts = parts % period
      end
    end
    if tokens >= capacity then
      tokens, parts = capacity, 0
    end
  else
    tokens, parts = capacity, 0
  end

  local before_tokens, before_parts = tokens, parts
  if hits < 0 or tokens >= hits or charge_rejected then
    tokens = tokens - hits
    if tokens >= capacity then
      tokens, parts = capacity, 0
    elseif tokens < -capacity then
      tokens, parts = -capacity, 0
    end
  end
  if tokens ~= before_tokens or parts ~= before_parts or stepped_back then
    local ttl_ms = (capacity - tokens) * period / refill / 1000
    keep(key, ttl_ms, '%.0f %.0f %.0f', tokens, parts, now)
  end
end

local function count_window(key, stored, now, limit, window, hits, charge_rejected)
  local start = now - now % window
  local count, since
  if stored then
    count, since = string.match(stored, '^(%d+) (%d+)$')
  end
  local before = 0
  if count and tonumber(since) == start then
    before = tonumber(count)
  end
  local after = math.min(MAX_COUNT, math.max(0, before + hits))
  if not (hits < 0 or after <= limit or charge_rejected) then
    after = before
  end
  if after ~= before then
    keep(key, (start + window - now) / 1000, '%.0f %.0f', after, start)
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local answer = { time[1], time[2] }
for i = 1, #KEYS do
  local key = KEYS[i]
  if stored[key] == nil then
    local found = redis.pcall('GET', key)
    if type(found) == 'table' then
      return { err = found.err .. ' (key ' .. i .. ')' }
    end
    stored[key] = found
  end
end
for i = 1, #KEYS do
  local key = KEYS[i]
  local a = (i - 1) * 6
  local size, refill, period = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local hits, charge_rejected = tonumber(ARGV[a + 5]), ARGV[a + 6] == '1'
  answer[i + 2] = stored[key]
  if ARGV[a + 1] == 't' then
    take_tokens(key, stored[key], now, size, refill, period, hits, charge_rejected)
  else
    count_window(key, stored[key], now, size, period, hits, charge_rejected)
  end
end
return answer
