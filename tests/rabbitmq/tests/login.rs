//! Logins to a real node: each mechanism that needs neither TLS nor a plugin, and each refusal.

use puka::{AuthMechanism, Credentials, Error, Options, SaslMechanism};
use puka_test_rabbitmq::Node;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn node() -> Result<Node, Box<dyn std::error::Error>> {
    let node = Node::builder()
        .config("auth_mechanisms.1 = PLAIN")
        .config("auth_mechanisms.2 = AMQPLAIN")
        .config("auth_mechanisms.3 = RABBIT-CR-DEMO")
        .start()?;
    node.ctl(&["add_vhost", "forbidden"])?;
    Ok(node)
}

fn log_in(options: Options) -> Result<(), Error> {
    smol::block_on(async {
        let client = puka_smol::connect_with(options).await?;
        client
            .basic_publish("", "nowhere", "x")
            .user_id("guest")
            .await?;
        client.close().await
    })
}

/// RABBIT-CR-DEMO again, as a custom mechanism.
#[derive(Default)]
struct Demonstration {
    password: String,
}

impl SaslMechanism for Demonstration {
    fn initial_response(
        &mut self,
        credentials: &Credentials,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        credentials.password().clone_into(&mut self.password);
        Ok(credentials.username().into())
    }

    fn answer(
        &mut self,
        challenge: &[u8],
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        assert_eq!(challenge, b"Please tell me your password");
        Ok(format!("My password is {}", self.password).into_bytes())
    }
}

#[test]
fn rabbitmq_supports_every_mechanism_and_explains_refusals() -> Outcome {
    let node = node()?;
    let options = Options::from_uri(&node.url())?;
    for mechanism in [
        AuthMechanism::Plain,
        AuthMechanism::Amqplain,
        AuthMechanism::RabbitCrDemo,
    ] {
        let options = options.clone().auth_mechanisms(&[mechanism]);
        log_in(options.clone()).map_err(|error| format!("{mechanism:?}: {error}"))?;

        let refused = log_in(options.clone().credentials("guest", "S3KRET"))
            .err()
            .ok_or("let in")?;
        assert!(
            matches!(&refused, Error::AccessRefused(fault) if fault.code.value() == 403),
            "{refused}"
        );
        assert!(!format!("{refused} {refused:?}").contains("S3KRET"));

        let forbidden = log_in(options.virtual_host("forbidden"))
            .err()
            .ok_or("let in")?;
        assert!(
            matches!(&forbidden, Error::NotAllowed(fault)
                if fault.text.contains("refused for user")),
            "{forbidden}"
        );
    }
    let none = log_in(options.clone().auth_mechanisms(&[AuthMechanism::External]))
        .err()
        .ok_or("let in")?;
    assert!(matches!(none, Error::NoMechanism { .. }), "{none}");

    let asked = options
        .clone()
        .credentials_from(|| Ok(Credentials::new("guest", "guest")));
    log_in(asked)?;
    let own = options
        .auth_mechanisms(&[])
        .custom_mechanism("RABBIT-CR-DEMO", Demonstration::default)?;
    log_in(own)?;
    Ok(())
}

#[test]
fn rabbitmq_limits_the_size_of_a_login() -> Outcome {
    for (limit, is_allowed) in [(None, false), (Some("initial_frame_max = 65536"), true)] {
        let node = limit.map_or_else(Node::builder, |limit| Node::builder().config(limit));
        let node = node.start()?;
        let options = Options::from_uri(&node.url())?.initial_frame_max(65_536);
        let large = options.client_property("padding", &*"p".repeat(40_000))?;
        let outcome = log_in(large);
        match is_allowed {
            true => outcome?,
            false => assert!(
                matches!(outcome, Err(Error::LargeLogin { .. })),
                "{outcome:?}"
            ),
        }
    }
    Ok(())
}
