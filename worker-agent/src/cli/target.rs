//! Which agents a command is for, and the way to them: one by its own gRPC port, or those of a fleet through the control
//! plane's port for tools.

use graticule_cli::wire::{self, AGENT, FLEET};
use graticule_cli::{Failure, Line, Wire, connect};
use graticule_proto::v1::ListAgentsRequest;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::qgis_admin_client::QgisAdminClient;

/// What an agent is asked with.
pub(super) type Admin = QgisAdminClient<Wire>;

/// The longest answer that is read, in bytes: a project may have thousands of layers, a quarantine thousands of requests.
const LONGEST: usize = 32 << 20;

/// The variables that stand in for `--host` and `--fleet`.
const HOST_VARIABLE: &str = "GRATICULE_AGENT";
const FLEET_VARIABLE: &str = "GRATICULE_FLEET";

/// Which agents to ask, and how to show what they say.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Target {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) which: Which,
}

impl Target {
    /// The agents, each with the way to it, in the order of their names.
    pub(super) async fn agents(&self) -> Result<Agents, Failure> {
        self.which.agents().await
    }
}

/// Which agents to ask.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Whom to ask")]
pub(super) struct Which {
    /// The agent's gRPC address; else GRATICULE_AGENT, else 127.0.0.1:23456
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "fleet")]
    pub(super) host: Option<String>,
    /// Ask all agents of this control plane; else GRATICULE_FLEET
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) fleet: Option<String>,
    /// Only this one of the fleet; may be repeated
    #[arg(long = "agent", value_name = "NAME")]
    pub(super) agents: Vec<String>,
}

/// Where agents are found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One, at its own address.
    Host(String),
    /// Those of a control plane; all of them, or these.
    Fleet(String, Vec<String>),
}

impl Which {
    /// The words of the command line go before variables.
    pub(super) fn place(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Place, Failure> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let agents = self.agents.clone();
        let place = match (&self.host, &self.fleet) {
            (Some(host), _) => Place::Host(host.clone()),
            (None, Some(fleet)) => Place::Fleet(fleet.clone(), agents.clone()),
            (None, None) => match (variable(HOST_VARIABLE), variable(FLEET_VARIABLE)) {
                (Some(_), Some(_)) if agents.is_empty() => {
                    return Err(Failure::Usage(format!(
                        "{HOST_VARIABLE} and {FLEET_VARIABLE} are both set: say --host or --fleet"
                    )));
                }
                (_, Some(fleet)) => Place::Fleet(fleet, agents.clone()),
                (Some(host), None) => Place::Host(host),
                (None, None) => Place::Host(AGENT.usual.to_owned()),
            },
        };
        if matches!(place, Place::Host(_)) && !agents.is_empty() {
            return Err(Failure::Usage(format!(
                "--agent names one of a fleet: say --fleet HOST:PORT as well, or set {FLEET_VARIABLE}"
            )));
        }
        Ok(place)
    }

    /// The agents, each with the way to it, in the order of their names.
    pub(super) async fn agents(&self) -> Result<Agents, Failure> {
        match self.place(|name| std::env::var(name).ok())? {
            Place::Host(host) => {
                let line = connect(&host, AGENT).await?;
                let own = Way::Line(line);
                Ok(Agents::One(Box::new(One {
                    name: String::new(),
                    own,
                    admin: None,
                })))
            }
            Place::Fleet(fleet, names) => of_fleet(&fleet, &names).await.map(Agents::Fleet),
        }
    }
}

async fn of_fleet(fleet: &str, names: &[String]) -> Result<Vec<One>, Failure> {
    let line = connect(fleet, FLEET).await?;
    let mut client = FleetAdminClient::new(line.own()).max_decoding_message_size(LONGEST);
    let reply = client.list_agents(ListAgentsRequest {}).await;
    let records = reply
        .map_err(|status| wire::refused(FLEET, &status))?
        .into_inner()
        .agents;
    let attached = records.into_iter().filter(|record| record.attached);
    let hellos: Vec<_> = attached.filter_map(|record| record.hello).collect();
    let known = hellos.iter().map(|hello| hello.agent_id.as_str());
    for name in names {
        if !known.clone().any(|known| known == name) {
            let known = known.collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            return Err(Failure::Unreachable(format!(
                "no agent `{name}` is attached to the control plane at {fleet}; attached: {known}"
            )));
        }
    }
    let chosen = hellos
        .into_iter()
        .filter(|hello| names.is_empty() || names.contains(&hello.agent_id));
    let agents = chosen.map(|hello| {
        let admin = Some(line.toward(&hello.agent_id)?);
        Ok(One {
            name: hello.agent_id,
            own: Way::Address(hello.grpc_address),
            admin,
        })
    });
    let agents = agents.collect::<Result<Vec<_>, Failure>>()?;
    if agents.is_empty() {
        return Err(Failure::Unreachable(format!(
            "no agent is attached to the control plane at {fleet}"
        )));
    }
    Ok(agents)
}

/// Whom a command is for.
#[derive(Debug)]
pub(super) enum Agents {
    /// The one at an address.
    One(Box<One>),
    /// Those of a fleet, in the order of their names; at least one.
    Fleet(Vec<One>),
}

impl Agents {
    pub(super) fn all(&self) -> &[One] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Fleet(all) => all,
        }
    }

    /// The only one.
    ///
    /// # Errors
    /// When there are several, for `what` cannot be asked of them all.
    pub(super) fn only(&self, what: &str) -> Result<&One, Failure> {
        match self.all() {
            [one] => Ok(one),
            several => {
                let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
                let names = names.join(", ");
                Err(Failure::Usage(format!(
                    "{what} is for one agent: choose with --agent, from {names}"
                )))
            }
        }
    }
}

/// The way to an agent's own gRPC port.
#[derive(Debug)]
enum Way {
    Line(Line),
    Address(String),
}

/// An agent and the ways to it.
#[derive(Debug)]
pub(super) struct One {
    /// Its name in the fleet; empty when it was asked by its address.
    pub(super) name: String,
    own: Way,
    /// The way through the control plane.
    admin: Option<Wire>,
}

impl One {
    /// `QgisAdmin` of it.
    pub(super) async fn admin(&self) -> Result<Admin, Failure> {
        let wire = match &self.admin {
            Some(wire) => wire.clone(),
            None => self.own().await?,
        };
        Ok(QgisAdminClient::new(wire).max_decoding_message_size(LONGEST))
    }

    /// Its own gRPC port: for what the control plane does not carry.
    pub(super) async fn own(&self) -> Result<Wire, Failure> {
        match &self.own {
            Way::Line(line) => Ok(line.own()),
            Way::Address(address) => Ok(connect(address, AGENT).await?.own()),
        }
    }

    /// Whether it is asked through a control plane.
    pub(super) const fn of_fleet(&self) -> bool {
        self.admin.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: Option<&str>, fleet: Option<&str>, agents: &[&str], set: &[(&str, &str)]) -> Result<Place, String> {
        let which = Which {
            host: host.map(str::to_owned),
            fleet: fleet.map(str::to_owned),
            agents: agents.iter().map(|&name| name.to_owned()).collect(),
        };
        let variable = |wanted: &str| {
            set.iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| (*value).to_owned())
        };
        which.place(variable).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_command_line_goes_before_variables() {
        let both = [(HOST_VARIABLE, "a:1"), (FLEET_VARIABLE, "f:1")];
        let host = |at: &str| Ok(Place::Host(at.to_owned()));
        let fleet = |at: &str, names: &[&str]| {
            Ok(Place::Fleet(
                at.to_owned(),
                names.iter().map(|&name| name.to_owned()).collect(),
            ))
        };
        assert_eq!(place(None, None, &[], &[]), host("127.0.0.1:23456"));
        assert_eq!(place(Some("h:2"), None, &[], &both), host("h:2"));
        assert_eq!(place(None, Some("g:2"), &["x"], &both), fleet("g:2", &["x"]));
        assert_eq!(place(None, None, &[], &both[..1]), host("a:1"));
        assert_eq!(place(None, None, &[], &both[1..]), fleet("f:1", &[]));
        assert_eq!(place(None, None, &["x"], &both), fleet("f:1", &["x"]));
        assert_eq!(place(None, None, &[], &[(HOST_VARIABLE, "")]), host("127.0.0.1:23456"));
        assert!(place(None, None, &[], &both).unwrap_err().contains("both set"));
        assert!(place(Some("h:2"), None, &["x"], &[]).unwrap_err().contains("--fleet"));
    }
}
