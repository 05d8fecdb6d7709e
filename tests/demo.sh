#!/bin/sh
# A complete server in run/, for `make run`: SMTP on 127.0.0.1:2525, POP3 on 127.0.0.1:2110, one mailbox.
set -eu
binary=$1
folder=run
address=you@postrider.localhost
mkdir -p "$folder"
[ -f "$folder/postrider.toml" ] || cat >"$folder/postrider.toml" <<TOML
hostname = "postrider.localhost"
postmaster = "$address"
spool    = "spool"
users    = "users"
aliases  = "aliases"
log      = "mail.log"

[listen]
smtp = ["127.0.0.1:2525"]
pop3 = ["127.0.0.1:2110"]
TOML
[ -f "$folder/password" ] || (umask 077; head -c 9 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$folder/password"; echo >>"$folder/password")
grep -qs "^$address:" "$folder/users" || "$binary" --config "$folder/postrider.toml" user add "$address" <"$folder/password"
password=$(cat "$folder/password")
"$binary" --config "$folder/postrider.toml" check
cat <<TEXT

Mailbox: $address   password: $password
SMTP on 127.0.0.1:2525, POP3 on 127.0.0.1:2110, all files in $folder/. Ctrl-C stops the server.

In another terminal, in this folder. Send a message:
  printf 'From: you@postrider.localhost\nSubject: by SMTP\n\nHello.\n' | curl -s smtp://127.0.0.1:2525/localhost --mail-from you@postrider.localhost --mail-rcpt $address --crlf -T -
Drop one (a copy is taken 2 seconds after it is whole, what is moved in with mv at once):
  printf 'From: you@postrider.localhost\nTo: $address\nSubject: by drop\n\nHello.\n' >$folder/hello.eml; cp $folder/hello.eml $folder/spool/drop/; sleep 4
List and fetch them:
  curl -s -u '$address:$password' pop3://127.0.0.1:2110/
  curl -s -u '$address:$password' 'pop3://127.0.0.1:2110/[1-2]'
See what happened:
  cat $folder/mail.log

TEXT
exec "$binary" --config "$folder/postrider.toml" serve
