//! TLS: whom to trust, who we are, and what is said when the broker is not who it should be.
//!
//! It needs a broker with TLS: `AMQP_URL='amqps://localhost/?cacertfile=ca.pem' cargo run --example tls`. The same can be
//! said by [`puka::TlsOptions`], and then with more choice. Without `cacertfile`, the authorities of the system are trusted.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::{Error, Options, TlsFault};

fn main() -> Result<(), Error> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqps://localhost/".to_owned());
    smol::block_on(async {
        // A password is sent over TLS or not at all.
        let options = Options::from_uri(&url)?.refuse_unencrypted_login(true);
        let tls = options.tls_options().cloned().unwrap_or_default();

        let client = puka_smol::connect_with(options.clone()).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        client.basic_publish("", &queue, "a secret").await?;
        println!("published over TLS, and the broker has confirmed it");
        client.close().await?;

        // The certificate has to be for the name that was dialled, or for the one that is expected instead.
        let expecting = options.tls(tls.server_name("somebody.example"));
        match puka_smol::connect_with(expecting).await {
            Err(Error::Tls(TlsFault::WrongName(cause))) => println!("refused: {cause}"),
            Err(error) => return Err(error),
            Ok(client) => {
                println!("the broker is somebody.example");
                client.close().await?;
            }
        }
        Ok(())
    })
}
