//! Which servers the meshes of the suite stand on: none by default, or Kafka and a server of MongoDB's protocol.

use std::{
    ops::Deref,
    sync::{Mutex, MutexGuard, PoisonError},
};

use runmesh_servers::{Kafka, KafkaOptions, MongoLike, Shared};
use tokio::task::block_in_place;

use crate::Backends;

/// The variable that chooses: `real`, or `embedded`, which is the default. (What begins with `RUNMESH_` is taken by the
/// processes that the tests start for their settings.)
pub const BACKEND: &str = "MESH_TEST_BACKEND";

/// Servers of which one mesh at a time makes use. Topics have the catalog's names wherever they are, so that two meshes
/// on one Kafka would take each other's records.
#[derive(Debug)]
struct Servers {
    kafka: Kafka,
    /// `None`: a server that the user has named.
    mongo: Option<MongoLike>,
}

/// Servers that no mesh uses at the moment. A mesh that comes after another finds its topics, with records of executions
/// that are not in its own database, as after a restore.
static IDLE: Mutex<Vec<Servers>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Servers>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The servers of one mesh, with a database of its own. Dropped, they are free for the next mesh.
#[derive(Debug)]
pub(crate) struct Lent {
    servers: Option<Servers>,
    backends: Backends,
}

impl Lent {
    /// Servers, if the suite is to run on any.
    pub(crate) fn of_suite() -> anyhow::Result<Option<Self>> {
        if std::env::var(BACKEND).is_ok_and(|backend| backend == "real") { Self::new().map(Some) } else { Ok(None) }
    }

    fn new() -> anyhow::Result<Self> {
        let free = idle().pop();
        let servers = match free {
            Some(servers) => servers,
            None => block_in_place(|| {
                let kafka = Kafka::start(&KafkaOptions::default())?;
                let named = std::env::var_os(runmesh_servers::MONGODB_VARIABLE).is_some();
                anyhow::Ok(Servers { kafka, mongo: if named { None } else { Some(MongoLike::start()?) } })
            })?,
        };
        let uri = match &servers.mongo {
            Some(mongo) => mongo.uri(),
            None => Shared::mongodb()?,
        };
        let database = format!("runmesh_test_{}", uuid::Uuid::now_v7().simple());
        let backends = Backends { store: with_database(&uri, &database), brokers: servers.kafka.bootstrap() };
        Ok(Self { servers: Some(servers), backends })
    }
}

impl Deref for Lent {
    type Target = Backends;

    fn deref(&self) -> &Backends {
        &self.backends
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        idle().extend(self.servers.take());
    }
}

/// The address with this database in it: `mongodb://host:port/DATABASE?options`.
fn with_database(uri: &str, database: &str) -> String {
    let (address, options) = uri.split_once('?').map_or((uri, None), |(address, options)| (address, Some(options)));
    let address = address.trim_end_matches('/');
    options.map_or_else(|| format!("{address}/{database}"), |options| format!("{address}/{database}?{options}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_goes_between_the_address_and_its_options() {
        assert_eq!(with_database("mongodb://h:1/?a=b&c=d", "x"), "mongodb://h:1/x?a=b&c=d");
        assert_eq!(with_database("mongodb://h:1", "x"), "mongodb://h:1/x");
    }
}
