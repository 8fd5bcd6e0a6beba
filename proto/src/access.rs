//! What each method needs of who calls it: methods that anybody may call, that only look, and what ports are there for besides
//! administration. Whatever stands nowhere else is in [`CHANGE`]; a test holds these lists and the contracts together.

/// Anybody may call them.
pub const OPEN: &[&str] = &[
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.health.v1.Health/List",
];

/// They look and change nothing.
pub const READ: &[&str] = &[
    "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
    "/graticule.v1.FleetAdmin/GetAgent",
    "/graticule.v1.FleetAdmin/GetConfig",
    "/graticule.v1.FleetAdmin/GetSnapshot",
    "/graticule.v1.FleetAdmin/ListAgents",
    "/graticule.v1.FleetAdmin/ListCatalog",
    "/graticule.v1.FleetAdmin/ListConfigChanges",
    "/graticule.v1.FleetAdmin/ListFleetCache",
    "/graticule.v1.FleetAdmin/ListPins",
    "/graticule.v1.FleetAdmin/ListPlacements",
    "/graticule.v1.FleetAdmin/ListQuarantine",
    "/graticule.v1.FleetAdmin/WatchAgents",
    "/graticule.v1.QgisAdmin/Catalog",
    "/graticule.v1.QgisAdmin/DumpCache",
    "/graticule.v1.QgisAdmin/GetConfig",
    "/graticule.v1.QgisAdmin/GetEnv",
    "/graticule.v1.QgisAdmin/GetProjectInfo",
    "/graticule.v1.QgisAdmin/ListCache",
    "/graticule.v1.QgisAdmin/ListPlugins",
    "/graticule.v1.QgisAdmin/ListQuarantine",
    "/graticule.v1.QgisAdmin/Stats",
    "/graticule.v1.QgisServer/Ping",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// What ports are there for: agents attach, Envoys are told their configuration, clients ask for maps.
pub const PEER: &[&str] = &[
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
    "/graticule.v1.FleetLink/Attach",
    "/graticule.v1.QgisServer/ExecuteApiRequest",
    "/graticule.v1.QgisServer/ExecuteOwsRequest",
];

/// They change something, or keep somebody busy.
pub const CHANGE: &[&str] = &[
    "/graticule.v1.FleetAdmin/ClearQuarantine",
    "/graticule.v1.FleetAdmin/DrainAgents",
    "/graticule.v1.FleetAdmin/PinProject",
    "/graticule.v1.FleetAdmin/ReloadAgents",
    "/graticule.v1.FleetAdmin/ReloadConfig",
    "/graticule.v1.FleetAdmin/ResizeAgents",
    "/graticule.v1.FleetAdmin/ResumeAgents",
    "/graticule.v1.FleetAdmin/SetConfig",
    "/graticule.v1.FleetAdmin/UnpinProject",
    "/graticule.v1.FleetAdmin/UpdateFleetCache",
    "/graticule.v1.QgisAdmin/CheckoutProject",
    "/graticule.v1.QgisAdmin/ClearCache",
    "/graticule.v1.QgisAdmin/ClearQuarantine",
    "/graticule.v1.QgisAdmin/Drain",
    "/graticule.v1.QgisAdmin/DropProject",
    "/graticule.v1.QgisAdmin/PinProject",
    "/graticule.v1.QgisAdmin/Reload",
    "/graticule.v1.QgisAdmin/Resize",
    "/graticule.v1.QgisAdmin/Resume",
    "/graticule.v1.QgisAdmin/SetConfig",
    "/graticule.v1.QgisAdmin/SetLogLevel",
    "/graticule.v1.QgisAdmin/SetServing",
    "/graticule.v1.QgisAdmin/Sleep",
    "/graticule.v1.QgisAdmin/UnpinProject",
    "/graticule.v1.QgisAdmin/UpdateCache",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_contracts_stands_in_one_list() {
        let files = FileDescriptorSet::decode(crate::DESCRIPTORS)
            .expect("they are ours")
            .file;
        let mut methods = BTreeSet::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let lists = [OPEN, READ, PEER, CHANGE].concat();
        let listed: BTreeSet<String> = lists.iter().map(|method| (*method).to_owned()).collect();
        assert_eq!(listed.len(), lists.len(), "a method stands in two lists");
        let ours = |method: &&String| method.starts_with("/graticule.");
        assert_eq!(
            methods.iter().filter(ours).collect::<Vec<_>>(),
            listed.iter().filter(ours).collect::<Vec<_>>(),
            "left the contracts, right the lists: say what a new method needs"
        );
    }
}
