//! Every limit of the server, each with its reason.
//!
//! Those a person may want to change have a key in `[limits]` and only their default here; the rest are constants,
//! because a wrong value would break a promise. RFC 5321 §4.5.3.1 gives the least that must be accepted. Long because it is
//! a table of all of them.

use std::time::Duration;

/// Octets in an SMTP command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 and each extension adds some; the
/// longest legal RCPT with DSN parameters is under 1,600.
pub const COMMAND_LINE: usize = 4096;

/// Octets in a POP3 command line. RFC 2449 §4 says 255; names and passwords of our own may be longer.
pub const POP3_LINE: usize = 1024;

/// Octets of an endless line that are read and dropped before the connection is closed: enough to stay in step with a
/// clumsy client, too few to be worth an attack.
pub const OVERLONG_LINE: usize = 64 * 1024;

/// Octets in a local-part (RFC 5321 §4.5.3.1.1 asks for 64; bounce addresses of lists are longer in the wild).
pub const LOCAL_PART: usize = 128;

/// Octets in a domain (RFC 5321 §4.5.3.1.2).
pub const DOMAIN: usize = 255;

/// Octets in a path with its brackets and source route (RFC 5321 §4.5.3.1.3 asks for 256).
pub const PATH: usize = 1024;

/// Octets in an ENVID (RFC 3461 §4.4) or, decoded, in an ORCPT address (RFC 3461 §4.2): 100 and 500 there.
pub const ENVID: usize = 100;
/// See [`ENVID`].
pub const ORCPT: usize = 500;

/// Octets in a user's password or login name as a client sends it: argon2 would hash more, for the attacker's benefit.
pub const CREDENTIAL: usize = 512;

/// Recipients in a transaction, `limits.recipients`. RFC 5321 §4.5.3.1.8 asks for 100; lists send 1,000 at a time.
pub const RECIPIENTS: usize = 1000;

/// The most that `limits.recipients` may be: so many lines of RCPT, which have [`COMMAND_LINE`] at most, fit into the
/// [`ENVELOPE`] of an entry. With more it would be accepted, and not read again.
pub const RECIPIENTS_MOST: usize = 4000;

/// Octets of memory that the envelope of each connection may have in any case: some hundred recipients (RFC 5321 §4.5.3.1.8).
pub const ENVELOPE_SMALL: usize = 24 * 1024;

/// The part of the memory that all larger envelopes share beyond it, as the recipients came: a message under way has four
/// copies of them.
pub const ENVELOPE_MEMORY_PART: u64 = 32;

/// The fewest envelopes that can take all of it: on the smallest machine each has still [`RECIPIENTS`] of usual length.
pub const ENVELOPES_LARGE: usize = 8;

/// Octets in a message, `limits.message_size`: larger than any large provider's, so that what they take we take.
pub const MESSAGE_SIZE: u64 = 50 * 1024 * 1024;

/// Octets beyond the message limit that are swallowed to answer 552 in step; past this the connection is closed.
pub const MESSAGE_OVERRUN: u64 = 64 * 1024 * 1024;

/// Received fields above which a message loops, `limits.hops` (RFC 5321 §6.3 wants at least 100 counted or a smaller
/// bound that real mail never meets; the longest honest chains have about 20).
pub const HOPS: usize = 50;

/// Errors after which a session is told 421, `limits.errors`: a person at a keyboard never makes as many.
pub const ERRORS: u32 = 20;

/// Commands without a message accepted between them, besides `limits.recipients`, after which a session is told 421:
/// bounds those who only NOOP.
pub const IDLE_COMMANDS: usize = 1000;

/// Octets from which a chunk is not counted among [`IDLE_COMMANDS`]: Exim cuts a message of any size into 8 KiB.
pub const FULL_CHUNK: u64 = 1024;

/// How long a client may take for a command, first to last octet, `limits.command_timeout` (RFC 5321 §4.5.3.2.7).
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a TLS handshake may take, first to last octet: slow lines need a few seconds of it.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Octets that a peer may send in a TLS handshake: the longest chains of certificates have a quarter of it.
pub const TLS_HANDSHAKE: usize = 64 * 1024;

/// Octets in a file with certificates or a key: the largest bundle of all known authorities has half of it.
pub const CERTIFICATE_FILE: usize = 1024 * 1024;

/// Certificates that are read of `tls.certificates`, each looked at once a second.
pub const CERTIFICATES: usize = 1000;

/// Days that a certificate has left when this is warned of, once a day: those of 90 days are renewed at 30.
pub const CERTIFICATE_DAYS: i64 = 14;

/// How long a client may be silent inside a message (RFC 5321 §4.5.3.2.5 gives clients 3 minutes a block).
pub const DATA_BLOCK_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a whole message may take, plus one second for each [`DATA_RATE`] octets that came.
pub const DATA_TIMEOUT: Duration = Duration::from_secs(600);

/// Octets a second below which a message is too slow to wait for: a tenth of a GSM line.
pub const DATA_RATE: u64 = 100;

/// How long a write to a client may stand still.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(180);

/// How long all writes of a connection may wait together, plus one second for each [`DATA_RATE`] octets: a POP3 client that
/// reads a list octet by octet would keep its mailbox shut for days.
pub const WRITE_WAITS: Duration = Duration::from_secs(600);

/// How long a POP3 client may be silent: RFC 1939 §3 asks for 10 minutes at least.
pub const POP3_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a POP3 client may take to log in, TLS and wrong passwords included, whether it is silent or not: who said CAPA
/// each ten minutes would have its place for ever. Programs log in at once, and the delays of [`POP3_LOGINS`] wrong
/// passwords take a third of it. [`POP3_TIMEOUT`] holds from then on.
pub const POP3_LOGIN_TIME: Duration = Duration::from_secs(180);

/// Wrong passwords after which a POP3 connection is closed.
pub const POP3_LOGINS: u32 = 5;

/// How long the answer to a wrong password is held back.
pub const LOGIN_DELAY: Duration = Duration::from_secs(1);

/// How many passwords are checked at once: each keeps a processor busy, and takes 19 MiB of memory, as a rule, for as long
/// as it lasts. Fewer are where [`LOGIN_MEMORY_PART`] has no room for as many.
pub const LOGIN_CHECKS: usize = 4;

/// The part of the memory that all checks of passwords take together: a third of 64 MiB has room for one check, and with
/// [`CONNECTION_MEMORY_PART`] leaves the rest to the server itself.
pub const LOGIN_MEMORY_PART: u64 = 3;

/// Blocks of 1 KiB that the memory of a check is asked for at least. Used are those it needs; but glibc's malloc gives what
/// is as large as this (over 32 MiB) back at its end, and would keep less, once for each of its arenas.
pub const MAPPED_BLOCKS: usize = 33 * 1024;

/// Wrong passwords from one address (of IPv6 one /64, which is one host's) after which all its answers are delayed, by
/// a second that doubles up to [`LOGIN_SLOWEST`]: a person who mistypes seldom needs as many.
pub const LOGIN_FREE: u32 = 5;

/// How long an answer is delayed at most: shorter than any client's patience, and than [`DRAIN`].
pub const LOGIN_SLOWEST: Duration = Duration::from_secs(8);

/// Wrong passwords after which an address is shut out, and for how long: a hundred guesses a day are left of millions.
pub const LOGIN_FAILURES: u32 = 15;
/// See [`LOGIN_FAILURES`].
pub const LOGIN_SHUT_OUT: Duration = Duration::from_secs(900);

/// After how long one wrong password is forgotten.
pub const LOGIN_FORGOTTEN: Duration = Duration::from_secs(600);

/// Wrong passwords for one name, from all over the world, after which answers about it are delayed by so much. Never
/// more: its owner waits too.
pub const LOGIN_NAME_FREE: u32 = 20;
/// See [`LOGIN_NAME_FREE`].
pub const LOGIN_NAME_DELAY: Duration = Duration::from_secs(2);

/// Addresses, and names, whose wrong passwords are counted at a time, a few hundred octets each: beyond it those of long
/// ago are forgotten.
pub const LOGIN_CLIENTS: usize = 16 * 1024;
/// See [`LOGIN_CLIENTS`].
pub const LOGIN_NAMES: usize = 4096;

/// Octets in a line of an AUTH exchange, in base64 (RFC 4954 §4).
pub const AUTH_LINE: usize = 12_288;

/// Octets in an AUTH command line that carries its first response; a longer one waits for the server (RFC 4954 §4).
pub const AUTH_COMMAND: usize = 512;

/// Octets of a nonce of SCRAM: those in use have 18 to 48.
pub const SCRAM_NONCE: usize = 256;

/// Octets of a salt of SCRAM: those in use have 8 to 64.
pub const SCRAM_SALT: usize = 128;

/// The fewest iterations of SCRAM-SHA-256 (RFC 7677 §4).
pub const SCRAM_ITERATIONS_LEAST: u32 = 4096;

/// The most: a second's work or so, which a client must do for any server that asks.
pub const SCRAM_ITERATIONS_MOST: u32 = 1_000_000;

/// The iterations of a new entry: each login costs the client this work, some 30 ms of a phone, and each guess costs a
/// thief of the users file as much.
pub const SCRAM_ITERATIONS: u32 = 100_000;

/// How long a login waits for its turn to be checked: [`LOGIN_CHECKS`] guessers keep no owner out for longer.
pub const LOGIN_WAIT: Duration = Duration::from_secs(10);

/// Octets in a unique-id (RFC 1939 §7).
pub const POP3_UID: usize = 70;

/// How often a folder of a mailbox is read again because it changed meanwhile: enough for one reader's renames, and
/// bounded where mail comes all the time.
pub const POP3_READS: usize = 3;

/// Messages in a mailbox that one POP3 session lists: a few tens of octets each.
pub const POP3_MESSAGES: usize = 1_000_000;

/// How long the client's name is waited for before it is written down as unknown.
pub const REVERSE_NAME_TIMEOUT: Duration = Duration::from_secs(2);

/// How many questions for a client's name may wait; more are answered as unknown.
pub const REVERSE_NAME_QUEUE: usize = 64;

/// Octets of stack of a connection's thread: four times the deepest that was measured.
pub const CONNECTION_STACK: usize = 256 * 1024;

/// How long the thread of a connection that has ended waits for another: clients that send a message a connection come
/// again sooner, and what it holds for that long is little.
pub const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Octets a connection is assumed to need when the cap is derived from the memory: in the middle of a message, with its
/// recipients, and with what the kernel and malloc keep for its thread.
pub const CONNECTION_MEMORY: u64 = 256 * 1024;

/// The part of this machine's memory that is shared out to connections.
pub const CONNECTION_MEMORY_PART: u64 = 4;

/// Descriptors kept for what is not a connection: spool, log, delivery, lists.
pub const RESERVED_DESCRIPTORS: u64 = 128;

/// Connections above which the derived cap does not go: more threads than a small host should have.
pub const CONNECTIONS_MOST: u64 = 20_000;

/// Octets in the read buffer of a connection that waits for commands, and of one that receives a message; replies that
/// gather are written out from so many on.
pub const COMMAND_BUFFER: usize = 2 * 1024;
/// See [`COMMAND_BUFFER`].
pub const MESSAGE_BUFFER: usize = 32 * 1024;
/// Octets in the first block of a message: most are no larger, and a large block costs them more than a second read.
pub const FIRST_BLOCK: usize = 8 * 1024;

/// Drafts committed with one flush at most: bounds the time the first of them waits.
pub const BATCH: usize = 512;

/// Finished drafts that may wait for the writer; a connection that has one more waits itself.
pub const COMMIT_QUEUE: usize = 1024;

/// A syncfs that takes longer is slowed by others' writes; single files are synced for [`SYNCFS_PAUSE`] then.
pub const SYNCFS_SLOW: Duration = Duration::from_millis(250);
/// See [`SYNCFS_SLOW`].
pub const SYNCFS_PAUSE: Duration = Duration::from_secs(60);

/// Octets kept free on the spool's disk, `limits.free_space`: below it new mail is 452 and queued mail still moves.
pub const FREE_SPACE: u64 = 16 * 1024 * 1024;

/// Octets of a message by SMTP after which it is looked again whether [`FREE_SPACE`] is left, as its size need not have
/// been told: most messages are smaller, and so much each connection may take of it.
pub const ROOM_STEP: u64 = 256 * 1024;

/// Inodes kept free on the spool's disk, where it counts them.
pub const FREE_INODES: u64 = 256;

/// Delivery threads, `delivery.threads`: local mail waits for the disk, remote mail for others.
pub const DELIVERY_THREADS: usize = 16;

/// Octets that a delivery thread is assumed to need when a small memory allows for fewer: a message for [`RECIPIENTS`] of
/// the longest, its targets and their state.
pub const DELIVERY_MEMORY: u64 = 4 * 1024 * 1024;

/// The part of the memory that delivery threads may need together.
pub const DELIVERY_MEMORY_PART: u64 = 4;

/// How long a connection to another host may take, `delivery.connect_timeout`: its kernel answers at once or not at all,
/// and three lost packets take 7 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections to one next hop at a time, `delivery.connections_per_hop`: large providers refuse more.
pub const CONNECTIONS_PER_HOP: usize = 10;

/// Addresses here and other domains whose reports are counted at a time: beyond it, those told longest ago are forgotten.
pub const REPORTS_KNOWN: usize = 10_000;

/// The time in which [`REPORTS`] are counted.
pub const REPORTS_TIME: Duration = Duration::from_secs(3600);

/// Next hops of which something is known at a time: the oldest that are not in use are forgotten beyond it.
pub const HOPS_KNOWN: usize = 4096;

/// Addresses of one next hop that an attempt tries (RFC 5321 §5.1 wants at least two).
pub const SERVERS: usize = 10;

/// How long one turn with a next hop goes on to further servers: what is left of the message waits then, so that a slow hop
/// gives its thread back.
pub const HOP_TURN: Duration = Duration::from_secs(600);

/// A turn with a next hop that took longer shows that it can't bear as many at a time.
pub const SLOW_TURN: Duration = Duration::from_secs(30);

/// Exchangers of a domain whose addresses are asked for: twice [`SERVERS`], for those that can't be found.
pub const EXCHANGERS: usize = 20;

/// How long their addresses are asked for, all together, besides the question under way: a delivery thread waits for it.
pub const EXCHANGERS_TIME: Duration = Duration::from_secs(60);

/// Sessions with next hops that wait for another message, and how long each does: servers do not like idle clients.
pub const IDLE_SESSIONS: usize = 32;
/// See [`IDLE_SESSIONS`].
pub const IDLE_SESSION: Duration = Duration::from_secs(5);

/// Messages that one session carries: large providers close it after about as many.
pub const SESSION_MESSAGES: u32 = 100;

/// Reports that an address here, or another domain, gets in an hour, `limits.reports`: no person reads more, and a forged
/// sender should not have to.
pub const REPORTS: usize = 100;

/// How long running deliveries may take after SIGTERM before the server leaves without them.
pub const DRAIN: Duration = Duration::from_secs(20);

/// How long an entry waits for room at its next hop, and up to twice as long, before it asks again by itself. It is woken
/// before, and each of a long line that asks has its file opened for nothing.
pub const PARKED: Duration = Duration::from_secs(3600);

/// By how much mail for a mailbox here goes before other mail that is due: a backlog for other hosts never delays it, and
/// a flood of it delays them no longer than this.
pub const MAILBOX_FIRST: Duration = Duration::from_secs(10);

/// Messages for mailboxes here whose files stay open between their acceptance and the first attempt, which follows within
/// milliseconds: where more wait, they are opened again.
pub const HANDED_OVER: usize = 64;

/// The longest span of time in the configuration or in a state, ten years: mistakes are longer, and sums with them would
/// have no end.
pub const SPAN: Duration = Duration::from_secs(315_360_000);

/// After an I/O error on a queue entry: when it is tried again.
pub const IO_RETRY: Duration = Duration::from_secs(60);

/// Targets one message may be resolved to, `limits.targets`: the largest list of a small host, ten times over.
pub const TARGETS: usize = 10_000;

/// Aliases that may lead to one another in a chain: deeper ones are mistakes.
pub const ALIAS_DEPTH: usize = 20;

/// Names that are looked at on the way of one recipient, besides its targets: [`TARGETS`] members, each in ten lists.
/// It takes a tenth of a second, and RCPT waits for it.
pub const ROUTE_WORK: usize = 100_000;

/// Octets in an aliases file, a users file or an `:include:` list.
pub const TABLE_FILE: u64 = 16 * 1024 * 1024;

/// Octets in the envelope of an entry or a dropped file: [`RECIPIENTS_MOST`] of the longest.
pub const ENVELOPE: usize = 16 * 1024 * 1024;

/// Octets in a field of addresses that are looked at for one to be changed: a thousand of them. What a longer one is made
/// of, commas alone for example, would take a hundred times its size in memory.
pub const ADDRESS_FIELD: usize = 64 * 1024;

/// Octets in the header of a dropped message, which is held in memory.
pub const DROP_HEADER: usize = 1024 * 1024;

/// Octets in an `ID.state` file: [`TARGETS`] with long replies.
pub const STATE_FILE: u64 = 16 * 1024 * 1024;

/// Octets of a value in the log: many of them are another host's words.
pub const FOREIGN_TEXT: usize = 1024;

/// Targets of a message that `queue list` shows, while some are open: more of them hide the other messages.
pub const LISTED_TARGETS: usize = 10;

/// Octets of a message's header that `queue show` prints.
pub const SHOWN_HEADER: usize = 64 * 1024;

/// Octets that are read of the answer to a question at the terminal, which is yes or no.
pub const ANSWER: u64 = 16;

/// For how long files of drop/ are taken until it is looked for newer ones: the turn of one of many is short.
pub const DROP_TURN: Duration = Duration::from_millis(100);

/// Changes in drop/ that are noticed at a time: as many as Linux keeps unless told otherwise.
pub const DROP_CHANGES: usize = 16 * 1024;

/// How long a file written in place in drop/ must be unchanged once closed, and without having been closed.
pub const DROP_SETTLED: Duration = Duration::from_secs(2);
/// See [`DROP_SETTLED`].
pub const DROP_UNCLOSED: Duration = Duration::from_secs(10);

/// How long a file that is no entry stands in queue/ before it is set aside: editors make some for a moment.
pub const FOREIGN_FILE: Duration = Duration::from_secs(1);

/// How often the spool is watched for what no event told and the users and aliases for changes, removals are synced
/// (DESIGN §3), and the log is written out at least.
pub const WATCH: Duration = Duration::from_secs(1);

/// Messages that a person put into queue/ and that could not be looked at yet: each is looked at again each [`WATCH`], and
/// where there are more, the disk has other troubles.
pub const UNSEEN: usize = 1000;

/// After how many looks, one each [`WATCH`], a change of a users, aliases or list file counts that is still going on, or has
/// emptied it: what writes it over may take some seconds for its first line.
pub const EMPTIED_LOOKS: u32 = 10;

/// How long events of the spool are gathered before they are looked at: no person sees the difference, and under load it
/// saves a wake-up a message. The kernel holds those of a hundred times as many messages.
pub const WATCH_TOGETHER: Duration = Duration::from_millis(20);

/// Octets of a log line: the rest is cut, so that no peer can fill the disk with one.
pub const LOG_LINE: usize = 4096;

/// Octets of log lines that gather before a thread waits until they are written: a second of a busy server. Of a log that
/// can't be written, at most twice as much is kept.
pub const LOG_WAITS: usize = 256 * 1024;

/// Octets in the name of a user: it is the name of a folder, and RFC 5321 §4.5.3.1.1 promises no sender more.
pub const USER_NAME: usize = 64;

/// KiB of memory that checking one argon2 hash may take, 1 GiB: libsodium's dearest preset; a typing error asks for more.
pub const PASSWORD_MEMORY_KIB: u32 = 1024 * 1024;

/// The dearest bcrypt hash that is checked: each step doubles the time, and this one takes some ten seconds.
pub const BCRYPT_COST: u32 = 17;

/// The most rounds of a SHA-crypt hash that is checked: some ten seconds as well.
pub const SHA_CRYPT_ROUNDS: u32 = 10_000_000;

/// Octets of a DNS answer by UDP that we ask for (RFC 6891 §6.2.3): so many fit into one packet on every path.
pub const DNS_DATAGRAM: u16 = 1232;

/// Octets of a DNS answer by UDP that are read: old servers send as many whatever was asked.
pub const DNS_DATAGRAM_READ: usize = 4096;

/// How long one DNS server may take for one answer at most, as in resolv.conf(5).
pub const DNS_TRY: Duration = Duration::from_secs(5);

/// How often all DNS servers are asked at most, as resolv.conf(5) has it by default.
pub const DNS_ROUNDS: u32 = 2;

/// How many DNS servers are asked: the system's own resolver looks at no more.
pub const DNS_SERVERS: usize = 3;

/// How long a DNS question may take, all servers and aliases together: a delivery thread waits for it.
pub const DNS_QUESTION: Duration = Duration::from_secs(20);

/// Aliases (CNAME) that are followed for one DNS question: honest chains have three or four.
pub const DNS_ALIASES: usize = 8;

/// DNS answers that are kept.
pub const DNS_CACHE: usize = 4096;

/// Octets of a DNS answer that is kept; larger ones are asked for again. With [`DNS_CACHE`], some 20 MiB at most.
pub const DNS_CACHED_ANSWER: usize = 4096;

/// How long a DNS answer is kept at most, whatever its TTL (RFC 8767 §4 advises a bound; few answers ask for more).
pub const DNS_TTL: Duration = Duration::from_secs(86_400);

/// How long it is kept at most that a name or a record is not there: people mend such things while they watch.
pub const DNS_NEGATIVE_TTL: Duration = Duration::from_secs(900);

/// How often it is looked whether /etc/resolv.conf changed.
pub const DNS_SETTINGS_LOOK: Duration = Duration::from_secs(5);

/// Octets of /etc/resolv.conf that are read.
pub const DNS_SETTINGS_FILE: usize = 64 * 1024;

/// How long a next hop's greeting and its replies to EHLO, MAIL and RCPT are waited for (RFC 5321 §4.5.3.2.1 to .3).
pub const RELAY_REPLY: Duration = Duration::from_secs(300);

/// How long its reply to DATA is waited for (RFC 5321 §4.5.3.2.4).
pub const RELAY_DATA_REPLY: Duration = Duration::from_secs(120);

/// How long a next hop may take for a block of the message, of [`RELAY_BLOCK`] octets (RFC 5321 §4.5.3.2.5).
pub const RELAY_BLOCK_TIMEOUT: Duration = Duration::from_secs(180);

/// How long its reply to the end of the message is waited for, and any at most, `delivery.reply_timeout`: giving up
/// sooner doubles mail (RFC 5321 §4.5.3.2.6).
pub const RELAY_END_REPLY: Duration = Duration::from_secs(600);

/// Octets that a command may print of which the first line is a password or a token: tokens have a few thousand.
pub const SECRET: usize = 16 * 1024;

/// How long such a command may take, which may ask a server elsewhere; a delivery waits for it.
pub const SECRET_COMMAND: Duration = Duration::from_secs(30);

/// How long what such a command printed is used, unless a next hop refuses it: tokens are good for an hour, as a rule.
pub const TOKEN_AGE: Duration = Duration::from_secs(1800);

/// How long the certificate authorities of a next hop are used until they are read again.
pub const AUTHORITIES_AGE: Duration = Duration::from_secs(60);

/// How long its reply to QUIT is waited for, which changes nothing.
pub const RELAY_QUIT_REPLY: Duration = Duration::from_secs(5);

/// After as long a wait for a next hop its deadline is looked at: the sockets keep one timeout for all stages.
pub const RELAY_WAIT: Duration = Duration::from_secs(30);

/// Octets of a message that are read, and written to a next hop, at once.
pub const RELAY_BLOCK: usize = 32 * 1024;

/// Recipients in one transaction with a next hop: what any must take (RFC 5321 §4.5.3.1.8).
pub const RELAY_RECIPIENTS: usize = 100;

/// Transactions one message takes in one session: [`TARGETS`] by [`RELAY_RECIPIENTS`], and as many for hops that take
/// fewer at once.
pub const RELAY_TRANSACTIONS: u32 = 200;

/// How long the commands of one transaction with a next hop may take together: each of a hundred recipients could take
/// [`RELAY_REPLY`].
pub const RELAY_ENVELOPE: Duration = Duration::from_secs(900);

/// How long a message may take there, besides a second for each [`RELAY_RATE`] octets of it: each block could take
/// [`RELAY_BLOCK_TIMEOUT`], which is days for one of 50 MiB.
pub const RELAY_MESSAGE: Duration = Duration::from_secs(600);

/// Octets a second below which a next hop is too slow for a large message: those of an ISDN line.
pub const RELAY_RATE: u64 = 8192;

/// Octets of commands that may be unanswered: a hundred recipients, and less than any system's buffers hold, so that
/// neither side waits in a write for the other (RFC 2920 §3.1).
pub const RELAY_PIPELINE: usize = 16 * 1024;

/// Octets in a line of a next hop's reply. RFC 5321 §4.5.3.1.5 allows 512, and some write more.
pub const REPLY_LINE: usize = 2048;

/// Octets of such a line that are kept.
pub const REPLY_LINE_KEPT: usize = 512;

/// Lines in a next hop's reply: the longest reply to EHLO has about twenty.
pub const REPLY_LINES: usize = 100;

/// Octets of another host's words that go into log, state and report.
pub const REPLY_TEXT: usize = 1000;

/// Octets of a message up to which a report of its failure returns it whole, unless RET= says otherwise: the letter a
/// person wrote, and not the pictures.
pub const RETURNED: u64 = 256 * 1024;

/// Groups of recipients with the same reply that a report tells a person of, and how many of each it names: all of them
/// stand in its second part, for programs.
pub const REPORT_GROUPS: usize = 20;
/// See [`REPORT_GROUPS`].
pub const REPORT_NAMES: usize = 20;

/// Octets of a field of the original that a report shows to a person.
pub const REPORT_QUOTE: usize = 200;

/// Octets of an address that the subject of a report names: longer ones leave no room for what happened.
pub const REPORT_SUBJECT: usize = 40;

/// Octets in a Message-ID that a report refers to: the longest seen in real mail are half as long.
pub const MESSAGE_ID: usize = 500;

/// Octets in a line of a message, without its end (RFC 5322 §2.1.1).
pub const TEXT_LINE: usize = 998;

/// Octets in a boundary: RFC 2046 §5.1.1 says 70, and some programs are longer-winded.
pub const MIME_BOUNDARY: usize = 256;

/// Octets in a Content-Type or Content-Transfer-Encoding field, which is held in memory: some hundred parameters.
pub const MIME_FIELD: usize = 16 * 1024;

/// Multiparts and messages in one another: a letter forwarded ten times has about twenty.
pub const MIME_DEPTH: usize = 50;

/// Parts in a message whose parts are re-encoded, each a few octets in memory: a digest has hundreds.
pub const MIME_PARTS: usize = 10_000;

/// Characters in `relay.srs_secret` at least: whoever guesses it sends through this host.
pub const SRS_SECRET: usize = 16;

/// Days for which reports to a rewritten sender are taken: four times as long as a message is usually tried.
pub const SRS_DAYS: u64 = 21;

/// Octets of the list of files and commands that the second process may be asked for.
pub const KEEPER_ALLOWED: usize = 1024 * 1024;

/// Octets of a request to the second process: two numbers and a name.
pub const KEEPER_REQUEST: usize = 512;

/// Octets of a command's complaints that are kept for the log, the last ones.
pub const KEEPER_COMPLAINT: usize = 512;

/// Commands that run at once: one for each next hop that wants a token is enough for a small host.
pub const KEEPER_COMMANDS: usize = 4;

/// How long the second process may take for what is no command: a disk that sleeps needs ten seconds.
pub const KEEPER_WAIT: Duration = Duration::from_secs(15);
