-- Names the project a request is for in the header x-graticule-project, so that Envoy's hash sends every spelling of a
-- project to the same agent. The name is a key for hashing, not permission to anything: the agent reads the request
-- itself.
--
-- The key is the project without leading and trailing slashes and without .qgs or .qgz, percent-encoded where a byte is
-- no letter, digit or one of -._~/ . It comes from the path (/ows/{project}), else from MAP in the query, else from MAP
-- in a small form body. A request that names none has no such header.
--
-- Input may be hostile: every search below takes time in proportion to the input's length, and nothing in it raises.

local HEADER = "x-graticule-project"
-- A longer form body is not read for its MAP.
local MOST_FORM_BYTES = 65536
-- What is longer is cut; it is no project's name, and the header must stay small.
local MOST_KEY_BYTES = 1024

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

-- The first MAP among the parameters, in any letter case.
local function map_of(parameters)
  for pair in parameters:gmatch("[^&]+") do
    local equals = pair:find("=", 1, true)
    -- "MAP" with each letter escaped is nine bytes long.
    if equals and equals <= 10 and decode(pair:sub(1, equals - 1)):lower() == "map" then
      return decode((pair:sub(equals + 1):gsub("+", " ")))
    end
  end
  return nil
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

function envoy_on_request(handle)
  local headers = handle:headers()
  -- First of all: whatever happens, a client's own word does not stay.
  headers:remove(HEADER)
  local target = headers:get(":path") or "/"
  local mark = target:find("?", 1, true) or #target + 1
  local project = project_of_path(target:sub(1, mark - 1)) or map_of(target:sub(mark + 1))
  if project == nil and small_form(headers) then
    local body = handle:body()
    if body ~= nil and body:length() > 0 then
      project = map_of(body:getBytes(0, body:length()))
    end
  end
  local key = project and key_of(project)
  if key and key ~= "" then
    -- Asked for anew: reading a body suspends the script, and what it held before is then stale.
    handle:headers():replace(HEADER, key)
  end
end
