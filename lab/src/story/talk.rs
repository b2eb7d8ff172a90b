//! Step 4: entries, workloads, and three calls across, in the words of the walkthrough.

use entente_bundle::{SpiffeId, TrustDomain};

use super::PATIENCE;
use crate::checks::{ensure, line_in, see};
use crate::domain::Domain;
use crate::lab::Lab;
use crate::log_file::Mark;
use crate::stock_cli;
use crate::workloads::{CallMark, HelloworldClient, HelloworldServer, IDENTITY_DEADLINE, OneCall, register};

const CALLS: usize = 3;
/// Calls that have to be answered before it is believed that they go on.
const FURTHER_CALLS: usize = 2;

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let products = &lab.means.products;
    let (server_program, client_program) = (products.helloworld_server(), products.helloworld_client());
    let server = HelloworldServer::start(&lab.one, &server_program, lab.two.trust_domain()).await?;
    let client =
        HelloworldClient::start(&lab.two, &client_program, lab.one.trust_domain(), server.address).await?;
    for (domain, id, other) in
        [(&lab.one, &server.spiffe_id, &lab.two), (&lab.two, &client.spiffe_id, &lab.one)]
    {
        show_entry(lab, domain, id, other.trust_domain()).await?;
    }
    lab.workloads = Some((server, client));
    across(lab).await?;
    at_home(lab).await
}

/// What a person sees of an entry with SPIRE's own tool.
async fn show_entry(lab: &Lab, domain: &Domain, id: &SpiffeId, foreign: &TrustDomain) -> anyhow::Result<()> {
    if let Some(program) = lab.means.spire.stock_server() {
        let shown = stock_cli::entry_show(program, domain, id).await?;
        lab.timeline.command(&shown.command_line, &shown.text);
        let mut lines = shown.text.lines();
        let federates =
            lines.any(|line| line.starts_with("FederatesWith") && line.ends_with(foreign.as_str()));
        ensure(federates, || format!("entry show does not say that {id} federates with {foreign}"))?;
    } else {
        lab.timeline.left_out(&format!(
            "`entry show` in {} shows {id} with what it federates with",
            domain.trust_domain()
        ));
    }
    lab.timeline.held(&format!(
        "entry in {} for {id}, by uid and path of the program, federates with {foreign}",
        domain.trust_domain()
    ));
    Ok(())
}

/// cluster2.org's client calls cluster1.org's server.
async fn across(lab: &mut Lab) -> anyhow::Result<()> {
    let (server, client) = lab.pair()?;
    client.more_replies(CALLS, IDENTITY_DEADLINE).await?;
    let expected_by_server = format!("Server gets BoanLab Client's SPIFFEID : \"{}\"", client.spiffe_id);
    line_in(&server.lines(), Mark::default(), &[&expected_by_server], IDENTITY_DEADLINE)
        .await
        .map_err(|error| see(error, server.log().path()))?;

    let client_lines = client.lines().lines_since(Mark::default());
    let server_lines = server.lines().lines_since(Mark::default());
    let (address, port) = (server.address, server.address.port());
    let expected_by_client = format!("Client gets Server's SPIFFEID : \"{}\"", server.spiffe_id);
    let client_story = [
        format!("Client starting up... {address}"),
        "Will send request every 500ms...".to_owned(),
        "This is Server Reply : Hello BoanLab Client.".to_owned(),
        expected_by_client,
    ];
    let server_story = [
        format!("Server (:{port}) starting up..."),
        format!("Server's spiffeID:  {}", server.spiffe_id),
        format!("Serving on {address}"),
        expected_by_server,
    ];
    for (lines, file, count) in
        [(&client_lines, client.lines(), 2 + 2 * CALLS), (&server_lines, server.lines(), 3 + CALLS)]
    {
        let shown = lines.iter().take(count).cloned().collect::<Vec<_>>().join("\n");
        lab.timeline.command(&format!("head -n {count} {}", file.path().display()), &shown);
    }
    for (who, story, lines) in
        [("client", client_story, client_lines), ("server", server_story, server_lines)]
    {
        for line in story {
            ensure(lines.contains(&line), || format!("the {who} did not print {line:?}"))?;
        }
    }
    lab.timeline
        .held(&format!("{CALLS} calls across, both sides name the other's SPIFFE ID, as in the walkthrough"));
    Ok(())
}

/// cluster1.org's own client calls the same server, without any federated bundle.
async fn at_home(lab: &mut Lab) -> anyhow::Result<()> {
    let program = lab.means.products.helloworld_client();
    let (id, _) = register(&lab.one, "helloworld-client", &program, &[]).await?;
    let address = lab.pair()?.0.address;
    let call = OneCall::make(&lab.one, &program, address, None).await?;
    lab.timeline.command(&call.command_line, &call.printed);
    ensure(call.answered, || {
        format!("the client of the server's own domain is not answered: {}", call.logged.trim())
    })?;
    lab.timeline.held(&format!("{id} is answered too"));
    Ok(())
}

/// The story's client goes on calling, and none of its calls has failed since `mark`.
pub(super) async fn check_calls(lab: &mut Lab, mark: &CallMark, when: &str) -> anyhow::Result<()> {
    let client = &lab.pair()?.1;
    client.more_replies(FURTHER_CALLS, PATIENCE).await?;
    let calls = client.calls_since(mark)?;
    if !when.is_empty() {
        lab.timeline.held(&format!("{calls} calls {when}, none failed"));
    }
    Ok(())
}
