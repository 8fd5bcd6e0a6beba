-- Reads a request for Envoy, and says in headers that no client can set
--
-- - x-graticule-project: the project a request is for, so that Envoy's hash sends every spelling of it to the same agent.
--   The name is a key for hashing, not permission to anything: the agent reads the request itself.
-- - x-graticule-kind: what is asked for, such as wms/getmap or wfs3/get, for timeouts.
-- - x-graticule-refused: the status with which a request is to be refused here.
--
-- The key is the project without leading and trailing slashes and without .qgs or .qgz, percent-encoded where a byte is
-- no letter, digit or one of -._~/ . It comes from the path (/ows/{project}), else from MAP in the query, else from MAP
-- in a small form body. A request that names none has no such header.
--
-- What the access log shows of a query goes into the request's metadata: values of known parameters, and nothing of any
-- other, for these may hold secrets.
--
-- Input may be hostile: every search below takes time in proportion to the input's length, and nothing in it raises.
-- MOST_URL_BYTES and LOGGED are set in lines put before these.

local PROJECT = "x-graticule-project"
local KIND = "x-graticule-kind"
local REFUSED = "x-graticule-refused"
-- A longer form body is not read.
local MOST_FORM_BYTES = 65536
-- What is longer is cut; it is no project's name, and the header must stay small.
local MOST_KEY_BYTES = 1024
-- What is longer is no service and no request.
local MOST_WORD_BYTES = 64
-- Of a value in the log, and of all of them.
local MOST_VALUE_BYTES = 200
local MOST_QUERY_BYTES = 1000

-- Parameters whose values the log may show. MAP is not among them: what it names is shown as the project.
local SHOWN = {}
for name in ([[service version request layers layer styles style crs srs srsname bbox width height format transparent
  dpi tiled query_layers info_format i j x y feature_count typename typenames featureid outputformat maxfeatures count
  startindex resulttype template tilematrix tilematrixset tilerow tilecol coverage coverageid identifier limit offset f
  sections exceptions legend_scale rule scale]]):gmatch("%S+") do
  SHOWN[name] = true
end

local function byte_of(hex)
  return string.char(tonumber(hex, 16))
end

local function escape_of(byte)
  return string.format("%%%02X", byte:byte())
end

-- An escape that is none stays as it is.
local function decode(text)
  return (text:gsub("%%(%x%x)", byte_of))
end

local function key_of(project)
  local key = project:sub(1, MOST_KEY_BYTES):gsub("/+", "/"):gsub("^/", ""):gsub("/$", ""):gsub("%.qg[sz]$", "")
  return (key:gsub("[^%w%-%._~/]", escape_of))
end

-- The first MAP, SERVICE and REQUEST among the parameters, in any letter case, and what the log may show of them all.
local function read(parameters, found, shown)
  for pair in parameters:gmatch("[^&]+") do
    local equals = pair:find("=", 1, true)
    -- The longest known name with each letter escaped is shorter.
    if equals and equals <= 64 then
      local name = decode(pair:sub(1, equals - 1)):lower()
      local value = pair:sub(equals + 1)
      if (name == "map" or name == "service" or name == "request") and found[name] == nil then
        found[name] = decode((value:gsub("+", " ")))
      end
      if shown and SHOWN[name] and shown.bytes < MOST_QUERY_BYTES then
        local text = name .. "=" .. value:sub(1, MOST_VALUE_BYTES)
        shown.bytes = shown.bytes + #text
        shown[#shown + 1] = text
      end
    end
  end
end

-- A service or request in small letters; nothing for what is none.
local function word(text)
  if text and #text <= MOST_WORD_BYTES and text:find("^[%w_]+$") then
    return text:lower()
  end
  return nil
end

-- What is asked for: of an API, its method. A service without a request is asked for all the same.
local function kind_of(path, method, found)
  local service = word(found.service)
  if service then
    return service .. "/" .. (word(found.request) or "")
  end
  if path:find("/wfs3/", 1, true) or path:find("/wfs3.", 1, true) or path:sub(-5) == "/wfs3" then
    return "wfs3/" .. method:lower()
  end
  return nil
end

-- The name of a project up to where the address of a storage may begin to hold a password.
local function loggable(key)
  local cut = key:find("%%3[Aa]") or key:find("%%3[Ff]") or key:find("%%40")
  return cut and key:sub(1, cut - 1) .. "…" or key
end

-- What the route takes off the path before agents get it; nothing for most.
local function without_prefix(path, context)
  local prefix = context and context:get("prefix")
  if prefix and path:sub(1, #prefix) == prefix then
    return path:sub(#prefix + 1)
  end
  return path
end

-- The project of /ows/{project}, with what may follow it: /wfs3 alone, /wfs3/… or /wfs3.json.
local function project_of_path(path)
  if path:sub(1, 5) ~= "/ows/" then
    return nil
  end
  local project = path:sub(6)
  local api = project:find("/wfs3[/%.]")
  if api then
    project = project:sub(1, api - 1)
  elseif project:sub(-5) == "/wfs3" then
    project = project:sub(1, -6)
  end
  if project == "" then
    return nil
  end
  return decode(project)
end

local function small_form(headers)
  local kind = headers:get("content-type")
  local length = tonumber(headers:get("content-length") or "")
  return headers:get(":method") == "POST"
    and kind ~= nil
    and kind:sub(1, 33):lower() == "application/x-www-form-urlencoded"
    and length ~= nil
    and length > 0
    and length <= MOST_FORM_BYTES
end

local function log(handle, name, value)
  if LOGGED and value then
    handle:streamInfo():dynamicMetadata():set("graticule", name, value)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  -- First of all: whatever happens, a client's own word does not stay.
  headers:remove(PROJECT)
  headers:remove(KIND)
  headers:remove(REFUSED)
  local target, method = headers:get(":path") or "/", headers:get(":method") or ""
  if #target > MOST_URL_BYTES then
    headers:replace(REFUSED, "414")
    return
  end
  local mark = target:find("?", 1, true) or #target + 1
  local path = without_prefix(target:sub(1, mark - 1), handle:filterContext())
  local found, shown = {}, LOGGED and { bytes = 0 } or nil
  read(target:sub(mark + 1), found, shown)
  local project = project_of_path(path) or found.map
  if (project == nil or found.service == nil) and small_form(headers) then
    local body = handle:body()
    if body ~= nil and body:length() > 0 then
      read(body:getBytes(0, body:length()), found, shown)
      project = project or found.map
    end
  end
  -- Asked for anew: reading a body suspends the script, and what it held before is then stale.
  headers = handle:headers()
  local key = project and key_of(project)
  if key and key ~= "" then
    headers:replace(PROJECT, key)
    log(handle, "project", loggable(key))
  end
  local kind = kind_of(path, method, found)
  if kind then
    headers:replace(KIND, kind)
  end
  log(handle, "service", word(found.service))
  log(handle, "request", word(found.request))
  if shown and #shown > 0 then
    log(handle, "query", table.concat(shown, "&"))
  end
end
