-- Sends a request for a project that is placed to one of its agents. PLACED is set in lines put before these: on each line a
-- pool and a project as "pool/project", and addresses with spaces between, which take turns. Envoy passes over an agent that
-- is not healthy, and what is tried again goes another way, too: then the hash decides, as for all projects that are not
-- placed.
--
-- It is a filter of its own, so that the route configuration can give it another table while routes say to the other filter
-- what concerns them alone. The table is read once when it comes; a request looks one entry up.

local PROJECT = "x-graticule-project"

local placed = {}
for key, agents in PLACED:gmatch("(%S+) ([^\n]+)") do
  local list = {}
  for address in agents:gmatch("%S+") do
    list[#list + 1] = address
  end
  placed[key] = list
end

-- Of this thread of Envoy.
local turn = 0

function envoy_on_request(handle)
  local project = handle:headers():get(PROJECT)
  if project == nil then
    return
  end
  -- Routes are named for their pool.
  local route = handle:streamInfo():routeName()
  local slash = route and route:find("/", 1, true)
  local agents = slash and placed[route:sub(1, slash) .. project]
  if agents then
    turn = (turn + 1) % 1000000
    handle:setUpstreamOverrideHost(agents[turn % #agents + 1], false)
  end
end
