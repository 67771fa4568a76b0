-- Takes hits from the buckets of several requests, each request as one atomic step.
--
-- KEYS: the buckets, each once.
-- ARGV[1]: 36 bytes for each take, in the order of the requests (ratelimit/stores/script.py, `encode_takes`): the
--   position of its key (16 bits, from 1), its flags (8 bits, as below), the kind of bucket (8 bits: 0 token
--   bucket, 1 fixed window, 2 sliding window, 3 calendar window, 4 slots), then as doubles: capacity or limit, hits, the
--   tokens of a refill (of slots: the holder; 0 for a window), and the period, window or time that a slot is held at
--   most, in microseconds (of a calendar window: in months).
-- Returns the time of Redis as seconds and microseconds, then a list of what was stored for each key, or nil.
-- The caller computes the outcomes from that with the functions that the memory store uses (common/buckets.py,
-- ratelimit/stores/take_all.py); this script only makes the same change of state, with the same numbers.
--
-- Every key is read before the first is written, so a call that is refused (a key that holds a list, a server
-- that may not write) has charged nothing. A key that changes is written once.
--
-- Stored: "USED PARTS TIME_US" (tokens in use, and parts of a token, one being 1/period) "COUNT WINDOW_START_US", or
-- "COUNT COUNT_OF_THE_WINDOW_BEFORE WINDOW_START_US", or "HOLDER@TIME_US " for each slot that is held, oldest first.
-- Every number is a whole number below 2^53, so that doubles hold it exactly. Needs Redis 5: before it,
-- a script that read the clock could not write.
--
-- States are kept in one table for each number, not in one table for each bucket, and a request with one bucket
-- makes no table at all: garbage is most of what a script costs.

local CHARGE_REJECTED, ENFORCE, QUOTA, SPARE, LAST = 1, 2, 4, 8, 16
local TAKE_BYTES = 36
local EXACT = 9007199254740992
local MAX_COUNT = 1125899906842624
local MAX_TOKENS = 4294967295
local SPARE_MS = 1000
local MAX_STEP_BACK_US = 10000000
local MAX_TTL_MS = 315360000000
local DAY_US = 86400000000

local floor, ceil, format, unpack = math.floor, math.ceil, string.format, struct.unpack
local call = redis.call
local time = call('TIME')
local clock = time[1] * 1000000 + time[2]
local encoded = ARGV[1]

-- The most common call is one take from a token bucket or a fixed window. It is charged here, by the steps of
-- take_tokens and count_window, without the tables and functions below: to make those costs more than the charge.
if #encoded == TAKE_BYTES then
  local _, flags, kind, limit, hits, refill, period = unpack('<HBBdddd', encoded)
  local key = KEYS[1]
  local found = kind < 2 and redis.pcall('GET', key)
  if type(found) == 'table' then
    return { err = found.err .. ' (key 1)' }
  end
  local charge_rejected, text, ttl = flags % 2 >= CHARGE_REJECTED, nil, nil
  if kind == 1 then
    local now, count, since = clock, nil, nil
    if found then
      count, since = string.match(found, '^(%d+) (%d+)$')
      since = tonumber(since)
      if since and since > clock and since - clock <= MAX_STEP_BACK_US and since - clock <= period then
        now = since -- as time_of
      end
    end
    local start = now - now % period
    local before = since == start and count + 0 or 0
    local after = before + hits
    after = after < 0 and 0 or after > MAX_COUNT and MAX_COUNT or after
    if after ~= before and (hits < 0 or after <= limit or charge_rejected) then
      text, ttl = format('%.0f %.0f', after, start), (start + period - clock) / 1000
    end
  elseif kind == 0 then
    local used, parts, at, now = 0, 0, clock, clock
    if found then
      local a, b, c = string.match(found, '^(%d+) (%d+) (%d+)$')
      if a then
        used, parts, at = a + 0, b + 0, c + 0
        if at > clock and at - clock <= MAX_STEP_BACK_US and at - clock <= period then
          now = at -- as time_of
        end
      end
    end
    local elapsed = now - at
    local freed = elapsed * refill
    if freed >= EXACT then
      kind = nil -- needs divide_product
    else
      if elapsed > 0 then
        local left = freed % period
        used, parts = used - (freed - left) / period, parts - left
        if parts < 0 then
          used, parts = used - 1, parts + period
        end
        if used < 0 then
          used, parts = 0, 0
        end
      end
      local before_used, before_parts = used, parts
      if hits < 0 or charge_rejected or used + hits + (parts > 0 and 1 or 0) <= limit then
        used = used + hits
        if used < 0 then
          used, parts = 0, 0
        elseif used >= 2 * limit then
          used, parts = 2 * limit, 0
        end
      end
      if used ~= before_used or parts ~= before_parts or elapsed < 0 then
        text = format('%.0f %.0f %.0f', used, parts, now)
        ttl = ((used + (parts > 0 and 1 or 0)) * period / refill + now - clock) / 1000
      end
    end
  else
    kind = nil
  end
  if kind then
    if text then
      ttl = ceil(ttl) + SPARE_MS
      call('SET', key, text, 'PX', ttl < MAX_TTL_MS and ttl or MAX_TTL_MS)
    end
    return { time[1], time[2], { found } }
  end
end

local stored = {} -- by position of the key: the text, or false
local x, y, z = {}, {}, {} -- the numbers of the state; x is false where there is none, and nil until it is read
local ttl_ms = {} -- set when the state changes

-- The time of a bucket whose state is of `at` (false: none): the clock may be behind, after a failover.
local function time_of(at, window)
  if at and at > clock and at - clock <= MAX_STEP_BACK_US and at - clock <= window then
    return at
  end
  return clock
end

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
    local digit = floor(a / base) % 8
    local step = left * 8 + digit * b
    left = step % m
    quotient = quotient * 8 + (step - left) / m
    base = base / 8
  end
  return quotient, left
end

local function take_tokens(i, capacity, hits, charge_rejected, refill, period)
  local used, parts, at = x[i], y[i], z[i]
  if used == nil then
    used, parts, at = string.match(stored[i] or '', '^(%d+) (%d+) (%d+)$')
    used, parts, at = tonumber(used) or false, tonumber(parts), tonumber(at)
    x[i], y[i], z[i] = used, parts, at
  end
  local now = time_of(used and at, period)
  local stepped_back = false
  if used then
    local elapsed = now - at
    stepped_back = elapsed < 0
    if elapsed > 0 then
      if elapsed * refill / period > used + 2 then
        used, parts = 0, 0
      else
        local freed, left = divide_product(elapsed, refill, period)
        used, parts = used - freed, parts - left
        if parts < 0 then
          used, parts = used - 1, parts + period
        end
        if used < 0 then
          used, parts = 0, 0
        end
      end
    end
  else
    used, parts = 0, 0
  end

  local before_used, before_parts = used, parts
  local allowed = hits < 0 or used + hits + (parts > 0 and 1 or 0) <= capacity
  if allowed or charge_rejected then
    used = used + hits
    if used < 0 then
      used, parts = 0, 0
    elseif used >= 2 * capacity then
      used, parts = 2 * capacity, 0
    end
  end
  if used ~= before_used or parts ~= before_parts or stepped_back then
    x[i], y[i], z[i] = used, parts, now
    ttl_ms[i] = ((used + (parts > 0 and 1 or 0)) * period / refill + now - clock) / 1000
  end
  return allowed
end

-- The count of a window, false where there is none, and its start.
local function window_state(i)
  if x[i] == nil then
    local text, since = string.match(stored[i] or '', '^(%d+) (%d+)$')
    x[i], y[i] = tonumber(text) or false, tonumber(since)
  end
  return x[i], y[i]
end

local function count_until(finish, start, i, limit, hits, charge_rejected)
  local before = 0
  if x[i] and y[i] == start then
    before = x[i]
  end
  local after = before + hits
  after = after < 0 and 0 or after > MAX_COUNT and MAX_COUNT or after
  local allowed = hits < 0 or after <= limit
  if after ~= before and (allowed or charge_rejected) then
    x[i], y[i], z[i] = after, start, nil
    ttl_ms[i] = (finish - clock) / 1000
  end
  return allowed
end

local function count_window(i, limit, hits, charge_rejected, _, window)
  local count, since = window_state(i)
  local now = time_of(count and since, window)
  local start = now - now % window
  return count_until(start + window, start, i, limit, hits, charge_rejected)
end

-- When a month begins, by the rules of the Gregorian calendar; 0 is January of the year 0.
local function month_begins(month)
  local year, m = floor(month / 12), month % 12 + 1
  local past = year - 1
  local leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  local short_february = m <= 2 and 0 or leap and 1 or 2
  local days = 365 * past + floor(past / 4) - floor(past / 100) + floor(past / 400)
  return (days + floor((367 * m - 362) / 12) - short_february - 719162) * DAY_US
end

local function count_months(i, limit, hits, charge_rejected, _, months)
  local count, since = window_state(i)
  local now = time_of(count and since, MAX_STEP_BACK_US)
  local month = floor(now / DAY_US / 30.436875) + 23640 -- January 1970; off by one month at most
  if now < month_begins(month) then
    month = month - 1
  elseif now >= month_begins(month + 1) then
    month = month + 1
  end
  local first = month - month % months
  return count_until(month_begins(first + months), month_begins(first), i, limit, hits, charge_rejected)
end

local function slide_window(i, limit, hits, charge_rejected, _, window)
  local count, previous, since = x[i], y[i], z[i]
  if count == nil then
    count, previous, since = string.match(stored[i] or '', '^(%d+) (%d+) (%d+)$')
    count, previous, since = tonumber(count) or false, tonumber(previous), tonumber(since)
    x[i], y[i], z[i] = count, previous, since
  end
  local now = time_of(count and since, window)
  local start = now - now % window
  if count and since == start - window then
    count, previous = 0, count
  elseif not count or since ~= start then
    count, previous = 0, 0
  end
  local carried, left = divide_product(start + window - now, previous, window)
  if left > 0 then
    carried = carried + 1
  end
  local after, kept = count + hits, previous
  if after < 0 then -- a refund of hits of the window before, too
    after, kept = 0, previous + after
    kept = kept < 0 and 0 or kept
  elseif after > MAX_TOKENS then
    after = MAX_TOKENS
  end
  local allowed = hits < 0 or count + hits + carried <= limit
  if (after ~= count or kept ~= previous) and (allowed or charge_rejected) then
    x[i], y[i], z[i] = after, kept, start
    ttl_ms[i] = (start + 2 * window - clock) / 1000
  end
  return allowed
end

local SLOT = string.rep('%d', 16) .. '@' .. string.rep('%d', 16) .. ' '
local SLOT_BYTES = 34

local function take_slots(i, limit, hits, _, holder, lease)
  local held = x[i]
  if held == nil then
    held = stored[i] or ''
    local _, slots = string.gsub(held, SLOT, '')
    if slots * SLOT_BYTES ~= #held then
      held = ''
    end
    x[i] = held
  end
  local first = 1
  while first < #held do
    local at = tonumber(string.sub(held, first + 17, first + 32))
    if clock - at < lease and at - clock <= MAX_STEP_BACK_US then
      break
    end
    first = first + SLOT_BYTES
  end
  held = string.sub(held, first)
  local last = tonumber(string.sub(held, -17, -2)) or clock
  local now = last > clock and last or clock
  local allowed = hits < 0 or #held / SLOT_BYTES + (hits > 0 and 1 or 0) <= limit
  local changed = false
  if hits > 0 and allowed then
    held, last, changed = held .. format('%016.0f@%016.0f ', holder, now), now, true
  elseif hits < 0 then
    local found = string.find(held, format('%016.0f@', holder), 1, true)
    if found then
      held, changed = string.sub(held, 1, found - 1) .. string.sub(held, found + SLOT_BYTES), true
      last = tonumber(string.sub(held, -17, -2))
    end
  end
  if changed then
    x[i] = held
    ttl_ms[i] = last and (last + lease - clock) / 1000 or 0
  end
  return allowed
end

for i = 1, #KEYS do
  local found = redis.pcall('GET', KEYS[i])
  if type(found) == 'table' then
    return { err = found.err .. ' (key ' .. i .. ')' }
  end
  stored[i] = found
end

-- Charges the takes of one request: all, or if it is refused, those that `Take.charges_in_refused` names. A take
-- is {position, function, its five arguments, mode, spare, whether it passed by itself}.
local function charge(takes)
  local before = {}
  local refused, quotas, quotas_over = false, 0, 0
  for n = 1, #takes do
    local take = takes[n]
    local i = take[1]
    if not before[i] then
      take[2](i, take[3], 0, false, take[6], take[7]) -- reads the state
      before[i] = { x[i], y[i], z[i], ttl_ms[i] }
    end
    local allowed = take[2](i, take[3], take[4], take[5], take[6], take[7])
    take[10] = allowed
    if take[8] == QUOTA then
      quotas = quotas + 1
      quotas_over = quotas_over + (allowed and 0 or 1)
    elseif take[8] == ENFORCE and not allowed then
      refused = true
    end
  end
  if not refused and (quotas == 0 or quotas > quotas_over) then
    return
  end
  for i, state in pairs(before) do
    x[i], y[i], z[i], ttl_ms[i] = state[1], state[2], state[3], state[4]
  end
  for n = 1, #takes do
    local take = takes[n]
    if take[4] < 0 or (take[5] and not (take[9] and take[10])) then
      take[2](take[1], take[3], take[4], take[5], take[6], take[7])
    end
  end
end

local TAKES = { [0] = take_tokens, count_window, slide_window, count_months, take_slots }

local at, size, takes = 1, #encoded, nil
while at <= size do
  local i, flags, kind, limit, hits, refill, period
  i, flags, kind, limit, hits, refill, period, at = unpack('<HBBdddd', encoded, at)
  local take = TAKES[kind]
  local charge_rejected = flags % 2 >= CHARGE_REJECTED
  if flags >= LAST and not takes then
    take(i, limit, hits, charge_rejected, refill, period)
  else
    takes = takes or {}
    local mode, spare = flags % SPARE - flags % ENFORCE, flags % LAST >= SPARE
    takes[#takes + 1] = { i, take, limit, hits, charge_rejected, refill, period, mode, spare, false }
    if flags >= LAST then
      charge(takes)
      takes = nil
    end
  end
end

for i, ttl in pairs(ttl_ms) do
  local text
  if z[i] then
    text = format('%.0f %.0f %.0f', x[i], y[i], z[i])
  elseif y[i] then
    text = format('%.0f %.0f', x[i], y[i])
  else
    text = x[i]
  end
  ttl = ceil(ttl) + SPARE_MS
  call('SET', KEYS[i], text, 'PX', ttl < MAX_TTL_MS and ttl or MAX_TTL_MS)
end
return { time[1], time[2], stored }
