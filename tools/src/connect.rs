//! The flags that every client command shares, and the client they make.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tidelog_bench::client::{Client, ClientConfig};

use crate::failure::{Failure, USAGE};
use crate::output::OutputFormat;
use crate::settings::{parse_key_value, read_client_config};
use crate::signals;
use crate::when::parse_timeout;

/// Names the brokers when `-b` does not.
const BOOTSTRAP_VARIABLE: &str = "TIDELOG_BOOTSTRAP";

/// How to reach the cluster and how to print.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Connection and output")]
pub struct ClientArgs {
    /// Brokers to begin with [env: TIDELOG_BOOTSTRAP] [default: localhost:9092]
    #[arg(
        short = 'b',
        long = "bootstrap-server",
        visible_alias = "bootstrap",
        value_name = "HOST:PORT[,..]"
    )]
    pub bootstrap_server: Option<String>,
    /// Client setting under librdkafka's name, such as linger.ms=50; may be repeated
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = parse_key_value)]
    pub settings: Vec<(String, String)>,
    /// File of such settings, one KEY=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub client_config: Option<PathBuf>,
    /// Give up on an answer after this long, such as 500ms or 10s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// How data is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

impl ClientArgs {
    /// The client settings: defaults, then the environment, the file, -b, -X, and --timeout.
    pub fn config(&self) -> Result<ClientConfig, Failure> {
        self.config_in(std::env::var(BOOTSTRAP_VARIABLE).ok().as_deref())
    }

    /// As [`ClientArgs::config`], with this value of the environment variable.
    fn config_in(&self, bootstrap: Option<&str>) -> Result<ClientConfig, Failure> {
        let mut config = ClientConfig::default();
        if let Some(bootstrap) = bootstrap.filter(|list| !list.trim().is_empty()) {
            config
                .set("bootstrap.servers", bootstrap)
                .map_err(|e| Failure::new(USAGE, format!("{BOOTSTRAP_VARIABLE}: {e}")))?;
        }
        if let Some(path) = &self.client_config {
            for (key, value) in read_client_config(path)? {
                config.set(&key, &value)?;
            }
        }
        if let Some(bootstrap) = &self.bootstrap_server {
            config.set("bootstrap.servers", bootstrap)?;
        }
        for (key, value) in &self.settings {
            config.set(key, value)?;
        }
        if let Some(timeout) = self.timeout {
            config.request_timeout = timeout;
            config.connect_timeout = config.connect_timeout.min(timeout);
        }
        Ok(config)
    }

    /// Connects, and from here on ends on SIGINT with 130 and on SIGTERM with 143.
    pub fn connect(&self) -> Result<Client, Failure> {
        let config = self.config()?;
        signals::watch()?;
        Ok(Client::connect(config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_places_win_over_earlier_ones() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("client.properties");
        std::fs::write(&file, "bootstrap.servers=file:1\nlinger.ms=7\nacks=1\n").expect("write");
        let mut args = ClientArgs {
            client_config: Some(file),
            ..ClientArgs::default()
        };
        let bootstrap = |args: &ClientArgs, env| args.config_in(env).expect("fine").bootstrap;
        assert_eq!(bootstrap(&args, Some("env:3")), ["file:1"]);
        assert_eq!(bootstrap(&ClientArgs::default(), Some("env:3")), ["env:3"]);
        assert_eq!(bootstrap(&ClientArgs::default(), Some(" ")), ["localhost:9092"]);
        args.bootstrap_server = Some("flag:2,other".into());
        args.settings = vec![("linger.ms".into(), "9".into())];
        args.timeout = Some(Duration::from_secs(2));
        let config = args.config().expect("fine");
        assert_eq!(config.bootstrap, ["flag:2", "other:9092"]);
        assert_eq!(config.linger, Duration::from_millis(9));
        assert_eq!(
            (config.request_timeout, config.connect_timeout),
            (Duration::from_secs(2), Duration::from_secs(2))
        );
    }

    #[test]
    fn a_wrong_environment_names_itself() {
        let error = ClientArgs::default()
            .config_in(Some("http://x"))
            .expect_err("no address");
        assert_eq!(error.code(), USAGE);
        assert!(error.message().contains(BOOTSTRAP_VARIABLE), "{error:?}");
    }

    #[test]
    fn wrong_settings_are_usage_errors() {
        let args = ClientArgs {
            settings: vec![("nope".into(), "1".into())],
            ..ClientArgs::default()
        };
        assert_eq!(args.config().expect_err("unknown").code(), crate::failure::USAGE);
        let args = ClientArgs {
            client_config: Some("/does/not/exist".into()),
            ..ClientArgs::default()
        };
        assert_eq!(args.config().expect_err("missing").code(), crate::failure::USAGE);
    }
}
