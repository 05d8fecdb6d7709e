//! Certificates that come, change, break and go, as a running server sees them.

use std::fs;

use super::super::files::DirectFiles;
use super::super::testing::Made;
use super::*;

struct Site {
    folder: tempfile::TempDir,
    certificates: Certificates,
}

impl Site {
    /// A default for `default.example`, and a folder with none yet.
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("live")).unwrap();
        put(path, "cert.pem", "key.pem", &Made::new(&["default.example"], 100));
        let settings = config::Tls {
            certificate: Some(path.join("cert.pem")),
            key: Some(path.join("key.pem")),
            certificates: Some(path.join("live")),
        };
        let certificates = Certificates::load(&settings, "a.example", path, Box::new(DirectFiles)).unwrap();
        Site { folder, certificates }
    }

    fn put(&self, name: &str, made: &Made) {
        fs::create_dir_all(self.folder.path().join("live").join(name)).unwrap();
        let (certificate, key) = (format!("live/{name}/fullchain.pem"), format!("live/{name}/privkey.pem"));
        put(self.folder.path(), &certificate, &key, made);
    }

    /// Two looks: a change is taken up once it is still.
    fn settle(&self) {
        self.certificates.look();
        self.certificates.look();
    }

    /// The names of what a client gets that asks for `name`.
    fn shown(&self, name: &str) -> Vec<String> {
        let state = self.certificates.state.lock().unwrap();
        let others = state.by_folder.iter().filter_map(|one| one.current.as_ref());
        let key = ByName::new(state.default.current.as_ref().unwrap(), others).choose(Some(name)).clone();
        let parsed = webpki::EndEntityCert::try_from(&key.cert[0]).unwrap();
        parsed.valid_dns_names().map(str::to_owned).collect()
    }
}

fn put(folder: &Path, certificate: &str, key: &str, made: &Made) {
    fs::write(folder.join(certificate), &made.certificate).unwrap();
    fs::write(folder.join(key), &made.key).unwrap();
}

#[test]
fn the_name_that_is_asked_for_chooses() {
    let site = Site::new();
    site.put("one", &Made::new(&["mail.example.org", "*.example.net"], 50));
    site.settle();
    assert_eq!(site.shown("MAIL.example.org")[0], "mail.example.org");
    assert_eq!(site.shown("a.example.net")[0], "mail.example.org");
    for other in ["a.b.example.net", "example.net", "unknown.example", "", "default.example"] {
        assert_eq!(site.shown(other), ["default.example"], "{other}");
    }
    site.put("two", &Made::new(&["mail.example.org", "longer.example"], 90));
    site.settle();
    assert_eq!(site.shown("mail.example.org")[1], "longer.example", "the one that lasts longer");
}

#[test]
fn a_renewed_certificate_is_taken_up_once_it_is_still() {
    let site = Site::new();
    let before = site.certificates.server_config();
    site.settle();
    assert!(Arc::ptr_eq(&before, &site.certificates.server_config()), "nothing changed");
    put(site.folder.path(), "cert.pem", "key.pem", &Made::new(&["renewed.example"], 90));
    site.certificates.look();
    assert!(Arc::ptr_eq(&before, &site.certificates.server_config()), "it may be half written");
    site.certificates.look();
    assert!(!Arc::ptr_eq(&before, &site.certificates.server_config()));
    assert_eq!(site.shown("any"), ["renewed.example"]);
}

#[test]
fn a_broken_one_leaves_the_old_in_place_until_it_is_mended() {
    let site = Site::new();
    let before = site.certificates.server_config();
    let made = Made::new(&["renewed.example"], 90);
    let other = Made::new(&["other.example"], 90);
    let mixed = Made { certificate: made.certificate.clone(), key: other.key };
    let expired = Made::new(&["expired.example"], -2);
    let empty = Made { certificate: String::new(), key: String::new() };
    for broken in [&mixed, &expired, &empty] {
        put(site.folder.path(), "cert.pem", "key.pem", broken);
        site.settle();
        assert!(Arc::ptr_eq(&before, &site.certificates.server_config()));
    }
    fs::remove_file(site.folder.path().join("key.pem")).unwrap();
    site.settle();
    assert!(Arc::ptr_eq(&before, &site.certificates.server_config()));
    put(site.folder.path(), "cert.pem", "key.pem", &made);
    site.settle();
    assert_eq!(site.shown("any"), ["renewed.example"]);
}

#[test]
fn folders_come_and_go() {
    let site = Site::new();
    site.put("one", &Made::new(&["one.example"], 90));
    site.put("broken", &Made { certificate: "no".into(), key: "no".into() });
    site.settle();
    assert_eq!(site.shown("one.example"), ["one.example"]);
    fs::remove_dir_all(site.folder.path().join("live/one")).unwrap();
    site.settle();
    assert_eq!(site.shown("one.example"), ["default.example"]);
    site.put("broken", &Made::new(&["mended.example"], 90));
    fs::rename(site.folder.path().join("live"), site.folder.path().join("away")).unwrap();
    site.settle();
    fs::rename(site.folder.path().join("away"), site.folder.path().join("live")).unwrap();
    site.settle();
    assert_eq!(site.shown("mended.example"), ["mended.example"]);
}

#[test]
fn its_end_is_told_once_a_day() {
    let mut one = Watched::new(Source { certificate: "a".into(), key: "b".into() });
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "cert.pem", "key.pem", &Made::new(&["a.example"], 10));
    one.source = Source { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let now = Now::read();
    let at = |hours: u64| Now { boot: now.boot + Duration::from_secs(hours * 3600), ..now };
    one.read(&DirectFiles, now).unwrap();
    let mut warned_at = |hours| {
        one.warn(at(hours));
        one.warned == Some(at(hours).boot)
    };
    assert_eq!([0, 1, 23, 24, 25].map(&mut warned_at), [true, false, false, true, false]);
    put(folder.path(), "cert.pem", "key.pem", &Made::new(&["a.example"], 20));
    one.read(&DirectFiles, now).unwrap();
    one.warn(now);
    assert_eq!(one.warned, None);
}

#[test]
fn without_one_it_is_made_kept_and_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = config::Tls::default();
    let load = || Certificates::load(&settings, "mail.example.org", folder.path(), Box::new(DirectFiles)).unwrap();
    let leaf = |certificates: &Certificates| {
        certificates.state.lock().unwrap().default.current.as_ref().unwrap().key.cert[0].clone()
    };
    let (first, second) = (load(), load());
    assert_eq!(leaf(&first), leaf(&second));
    let now = Now::read();
    let later = Now { wall: now.wall + Duration::from_secs(3650 * 86_400), ..now };
    for _ in 0..2 {
        first.look_at(later);
    }
    assert_ne!(leaf(&first), leaf(&second));
}

#[test]
fn a_broken_default_is_an_error_at_the_start_alone() {
    let site = Site::new();
    let path = site.folder.path();
    let key_only = config::Tls { key: Some(path.join("key.pem")), ..config::Tls::default() };
    let swapped = config::Tls {
        certificate: Some(path.join("key.pem")),
        key: Some(path.join("cert.pem")),
        ..config::Tls::default()
    };
    for (settings, what) in [(key_only, "set tls.certificate"), (swapped, "there is no certificate in it")] {
        let error = Certificates::load(&settings, "a.example", path, Box::new(DirectFiles)).err().unwrap();
        assert!(error.what.contains(what), "{error}");
        assert!(site.certificates.take_up(&settings, "a.example").is_err());
        assert_eq!(Certificates::check(&settings, &DirectFiles), [error]);
    }
    assert_eq!(site.shown("any"), ["default.example"]);
    let none = config::Tls::default();
    site.certificates.take_up(&none, "b.example").unwrap();
    assert_eq!(site.shown("any"), ["b.example"]);
}

#[test]
fn a_key_in_the_same_file_needs_no_second_name() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::new(&["a.example"], 90);
    let path = folder.path().join("both.pem");
    fs::write(&path, made.key + &made.certificate).unwrap();
    let settings = config::Tls { certificate: Some(path), ..config::Tls::default() };
    assert_eq!(Certificates::check(&settings, &DirectFiles), []);
}
