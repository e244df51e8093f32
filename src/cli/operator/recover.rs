//! `operator recover`: when a majority of the servers is lost for good, one of those that are left founds a successor.

use crate::cli::connection::{ConnectionArgs, explain};
use crate::cli::{EXIT_FINE, Output, Usage, block_on};
use crate::client::Reply;
use crate::hint::fault;

/// Arguments of `operator recover`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The cluster whose quorum is lost, as `members -detailed` shows it: says that you mean it.
    #[arg(long, value_name = "CLUSTER ID")]
    cluster: Option<String>,
    /// Also where a server that may found a successor itself gives no answer, or was promised that it may.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let client = args.connection.client()?;
    let Some(cluster) = args.cluster else {
        let own = explain(block_on(async { Ok(client.agent_self().await) })?, "Error querying agent")?;
        let id = own["Member"]["Tags"]["cluster"].as_str().unwrap_or("CLUSTER-ID").to_owned();
        return Err(fault(
            "recovering founds a new cluster with what this server has: writes that only the lost servers have are lost",
            format!(
                "if a majority of the servers is gone for good, run `corediscover operator recover -cluster {id}` \
                 at the server that has most; the lost ones can then only join as clients"
            ),
        )
        .context(Usage("operator recover needs -cluster")));
    };
    let answer = block_on(async {
        let mut query = vec![("cluster", cluster.as_str())];
        query.extend(args.force.then_some(("force", "")));
        let answer = client.put("/v1/operator/recover", &query, "").await;
        Ok(answer.and_then(Reply::accepted))
    })?;
    let answer = explain(answer, "Error recovering the cluster")?;
    let successor = answer.text();
    let successor = successor.trim().trim_matches('"');
    output.data(&format!(
        "The cluster goes on as {successor}, with this server; clients become servers as needed\n"
    ))?;
    Ok(EXIT_FINE)
}
