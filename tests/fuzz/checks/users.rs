//! The users file: errors name lines, what one edit adds another takes away, and no other line changes.

use std::path::Path;

use postrider::mail::address::Address;
use postrider::users::Users;
use postrider::users::edit::{with_password, with_user, without_user};

const HASH: &str = "{BLF-CRYPT}$2y$05$xsrQ1OZpLaAyD9mH8qIU0.XgdBqPrnctCnHba5Zz9tiUDIRMAAssS";

pub fn check(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    let path = Path::new("users");
    let (users, errors) = Users::read(path, text);
    for error in &errors {
        assert!(error.line.is_some_and(|line| (1..=text.lines().count()).contains(&line)), "{error}");
    }
    let all: Vec<Address> = users.addresses().cloned().collect();
    assert!(all.iter().all(|address| users.contains(address) && address.to_string().parse().as_ref() == Ok(address)));
    if !errors.is_empty() {
        return;
    }
    let new: Address = "new@example.org".parse().unwrap();
    if let Ok(added) = with_user(text, &new, HASH) {
        assert!(added.starts_with(text));
        let read = Users::parse(path, &added).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.addresses().count(), all.len() + 1);
        let removed = without_user(&added, &new).unwrap();
        assert_eq!(removed.trim_end_matches('\n'), text.trim_end_matches('\n'), "added and removed again");
    }
    if let Some(first) = all.first() {
        let changed = with_password(text, first, HASH).unwrap();
        let read = Users::parse(path, &changed).unwrap_or_else(|error| panic!("{error}"));
        assert!(read.addresses().eq(all.iter()), "a new password and no more");
        let removed = without_user(text, first).unwrap();
        let read = Users::parse(path, &removed).unwrap_or_else(|error| panic!("{error}"));
        assert!(read.addresses().eq(all[1..].iter()), "one less");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let scram = "{SCRAM-SHA-256}4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4BmINyQCzosPEEkj+Ior6lzJywyxBXcfKk0U=,\
                 du77hf5JLTn7uGtuaKAw8vUtb1rKC/wYivLXO48Acms=";
    let sha = "{SHA256-CRYPT}$5$5f5j1vUcZsiJaorf$wjyctsrlPTCGePV61NV7KNjax3Zuey9lY7dwleychy4";
    let argon2 =
        "{argon2id}$argon2id$v=19$m=65536,t=3,p=1$Qg0yzeDcQruM14lRJnPJpw$IZF2OG6wm8mwLrea3fbb8YJ+6PTJZCAI8/XjJgu5jRQ";
    [
        format!("# all\n\n  # indented\nAnn@Example.org:{HASH}\r\nbob@example.org:{sha}:1:2::/home/bob\n"),
        format!("ann@x.org:{HASH}::::::userdb_mail=maildir:~/m postrider_senders=info@x.org,@shop.example"),
        format!("a@x.org:{scram}\nb@x.org:{argon2}\n"),
        format!("\"a b\"@example.org:{HASH}\nj\u{f6}rg@b\u{fc}cher.example:{HASH}\n"),
        "ann@example.org".to_owned(),
        format!("ann:{HASH}"),
    ]
    .map(String::into_bytes)
    .into()
}
