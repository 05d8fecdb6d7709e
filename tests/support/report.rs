//! A report as another program reads it: Python's `email`, which is to find no defect.

use std::fs;
use std::process::Command;

use super::have;

/// Prints `path = value` for every part, the blocks of the second, and each defect.
const READER: &str = r#"
import email, email.policy, sys
message = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
for part in message.walk():
    for defect in part.defects:
        print("defect =", repr(defect))
    for name, value in part.items():
        # Every letter outside of ASCII in an address is a defect to it, RFC 6531 or not.
        if name != "To" or message["To"].isascii():
            for defect in getattr(value, "defects", []):
                print("defect =", name, repr(defect))
print("type =", message.get_content_type())
print("report-type =", message.get_param("report-type"))
print("from =", message["From"].addresses[0].addr_spec)
print("to =", message["To"].addresses[0].addr_spec)
print("subject =", message["Subject"])
print("reply-to-id =", message["In-Reply-To"])
words, status, original = message.iter_parts()
print("words =", words.get_content_type(), " ".join(words.get_content().split()))
print("status =", status.get_content_type())
blocks = status.get_payload()
if status.get_content_type() == "message/global-delivery-status":
    block, text = blocks[0], blocks[0].get_payload(decode=True)
    blocks = [block] + [email.message_from_bytes(part, policy=email.policy.default) for part in text.split(b"\r\n\r\n")]
for at, block in enumerate(blocks):
    for name, value in block.raw_items():
        value = value.encode("utf-8", "surrogateescape").decode().replace("\n", "").replace("\r", "")
        print(f"{at}.{name} =", value)
print("original =", original.get_content_type())
inner = original.get_payload()
print("inner =", (inner[0].as_string() if isinstance(inner, list) else inner).replace("\n", "|"))
"#;

/// A report as lines `path = value`. `None` where there is no Python.
pub fn read_report(report: &[u8], test: &str) -> Option<String> {
    if !have("python3", test) {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), report).unwrap();
    let output = Command::new("python3").args(["-I", "-X", "utf8", "-c", READER]).arg(file.path()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{}", String::from_utf8_lossy(report));
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(!found.contains("defect ="), "{found}");
    Some(found)
}
