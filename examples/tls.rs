//! TLS: trusted authorities, and the error if the broker's certificate is for another name.
//!
//! It needs a broker with TLS:
//! `AMQP_URL='amqps://localhost/?cacertfile=ca.pem' cargo run --example tls`. [`puka::TlsOptions`]
//! has the same settings and more. Without `cacertfile`, the system's authorities are trusted.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::{Error, Options, TlsFault};

fn main() -> Result<(), Error> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqps://localhost/".to_owned());
    smol::block_on(async {
        // The password is only sent over TLS.
        let options = Options::from_uri(&url)?.refuse_unencrypted_login(true);
        let tls = options.get_tls().cloned().unwrap_or_default();

        let client = puka_smol::connect_with(options.clone()).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        client.basic_publish("", &queue, "a secret").await?;
        println!("published over TLS, and the broker has confirmed it");
        client.close().await?;

        // The certificate must be for the name that was dialled, or for the one that is expected
        // instead.
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
