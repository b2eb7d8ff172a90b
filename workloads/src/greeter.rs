//! The server's one method: says hello, and writes down who asked.

use entente_proto::helloworld::v1::greeter_server::Greeter;
use entente_proto::helloworld::v1::{HelloReply, HelloRequest};
use entente_workload_identity::Peer;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::output;

pub(crate) struct HelloWorld {
    /// Cancelled once the server has said who it is: the lines of calls come after that one.
    pub(crate) announced: CancellationToken,
}

#[tonic::async_trait]
impl Greeter for HelloWorld {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        // Cannot fail: each connection comes with its peer.
        let Some(Peer { id, .. }) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("no peer"));
        };
        let name = match output::one_line(&request.into_inner().name) {
            name if name.trim().is_empty() => "a nameless client".to_owned(),
            name => name,
        };
        self.announced.cancelled().await;
        output::say(&format!("Server gets {name}'s SPIFFEID : \"{id}\""));
        Ok(Response::new(HelloReply { message: format!("Hello {name}.") }))
    }
}
