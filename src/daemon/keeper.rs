//! The second process as the server has it: what it may be asked for, from the configuration, and what the log says of it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::Builder;

use super::{StartError, unavailable};
use crate::config::Config;
use crate::dns::{HOSTS, RESOLV_CONF};
use crate::io::account;
use crate::io::keeper::{Allowed, Answers, Keeper};
use crate::maillog;

/// The files and commands that the configuration names, the list of DNS servers and that of hosts: all that the second
/// process reads or runs, ever.
pub fn allowed(config: &Config) -> Allowed {
    let (tls, hops) = (&config.tls, &config.relay.hops);
    let of_hops = hops.values().flat_map(|hop| [&hop.password_file, &hop.ca]);
    let named = [&tls.certificate, &tls.key].into_iter().chain(of_hops).flatten().cloned();
    let files = named.chain([RESOLV_CONF, HOSTS].map(PathBuf::from)).collect();
    let commands = hops.values().flat_map(|hop| [&hop.password_command, &hop.token_command]);
    Allowed {
        run_as: config.run_as.clone(),
        files,
        folders: tls.certificates.iter().cloned().collect(),
        commands: commands.flatten().filter(|command| !command.is_empty()).cloned().collect(),
    }
}

/// The second process, not heard yet.
pub struct Started {
    keeper: Arc<Keeper>,
    answers: Answers,
    with_root: bool,
}

/// Starts it, with the rights that this process has now.
pub fn start(config: &Config) -> Result<Started, StartError> {
    let with_root = account::is_root();
    let (keeper, answers) = Keeper::start(allowed(config)).map_err(not_started)?;
    Ok(Started { keeper, answers, with_root })
}

fn not_started(error: io::Error) -> StartError {
    let is_short = error.kind() == io::ErrorKind::WouldBlock;
    let mend = if is_short { "raise the limit of processes" } else { "is /proc mounted?" };
    unavailable("start the second process, which reads keys and runs commands", &error, mend)
}

impl Started {
    /// Hears it from now on, in a thread of its own. To be called once root is given up and the log is open; then it can
    /// be asked.
    pub fn hear(self) -> Result<Arc<Keeper>, StartError> {
        let account = if self.with_root { "root".to_owned() } else { account::own_name() };
        maillog::keeper_started(self.answers.pid(), &account);
        let body = move || maillog::keeper_ended(&self.answers.run());
        let spawned = Builder::new().name("keeper".to_owned()).spawn(body);
        spawned
            .map(|_| self.keeper)
            .map_err(|error| unavailable("start a thread", &error, "raise the limit of processes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn all_files_and_commands_of_the_configuration_are_allowed_and_nothing_else() {
        let text = "run_as = \"mail\"\n[tls]\ncertificate = \"c\"\nkey = \"/k\"\ncertificates = \"/live\"\n\
                    [relay.hops.\"a.example\"]\nca = \"ca\"\npassword_file = \"p\"\n\
                    [relay.hops.\"b.example\"]\npassword_command = [\"pass\", \"x\"]\ntoken_command = [\"token\"]\n";
        let allowed = allowed(&Config::parse(text, Path::new("/etc")).unwrap());
        assert_eq!(
            allowed.files,
            ["/etc/c", "/k", "/etc/p", "/etc/ca", "/etc/resolv.conf", "/etc/hosts"].map(Path::new)
        );
        assert_eq!(allowed.folders, [Path::new("/live")]);
        assert_eq!(allowed.commands, [vec!["pass", "x"], vec!["token"]]);
        assert_eq!(allowed.run_as.as_deref(), Some("mail"));
        let empty = super::allowed(&Config::parse("", Path::new("/etc")).unwrap());
        assert_eq!(empty, Allowed { files: [RESOLV_CONF, HOSTS].map(PathBuf::from).into(), ..Allowed::default() });
    }
}
