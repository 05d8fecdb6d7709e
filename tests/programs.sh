#!/bin/sh
# Installs the programs that tests speak with, where this account may; tests that lack one skip themselves and say so.
# With the word bench, those of `make bench` too.
set -u
wanted="swaks:swaks msmtp:msmtp mpop:mpop fetchmail:fetchmail dovecot:dovecot-imapd doveadm:dovecot-core curl:curl \
python3:python3 strace:strace cc:gcc mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs postfix:postfix mandoc:mandoc nsd:nsd \
ip:iproute2 openssl:openssl gsasl:gsasl testssl:testssl.sh logrotate:logrotate"
packages=
for pair in $wanted; do
    program=${pair%%:*}
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || packages="$packages ${pair#*:}"
done
if [ "${1:-}" = bench ]; then
    [ -e /usr/lib/dovecot/pop3 ] || packages="$packages dovecot-pop3d"
    command -v perf >/dev/null 2>&1 || packages="$packages linux-perf"
fi
# Without it swaks knows no TLS.
perl -MNet::SSLeay -e 1 2>/dev/null || packages="$packages libnet-ssleay-perl"
# Debian installs one mail server at a time: those beside Postfix are only unpacked, for which no account needs a right.
# So is fail2ban, which would start to watch this host.
unpack() {
    for package in exim4-daemon-light opensmtpd fail2ban; do
        place=${CARGO_TARGET_DIR:-target}/tmp/unpacked/$package
        [ ! -d "$place" ] || continue
        rm -rf "$place.new" && mkdir -p "$place.new/tree" || return
        if (cd "$place.new" && apt-get download "$package" && dpkg -x ./*.deb tree) >/dev/null 2>&1; then
            mv "$place.new/tree" "$place"
        else
            echo "could not unpack: $package"
        fi
        rm -rf "$place.new"
    done
}
if ! command -v apt-get >/dev/null 2>&1; then
    [ -z "$packages" ] || echo "not installed, and there is no apt-get:$packages"
    exit 0
fi
if [ -z "$packages" ]; then
    unpack
    exit 0
fi
run=
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then run="sudo -n"; else
        echo "not installed, and this account may not:$packages"
        unpack
        exit 0
    fi
fi
# The tests start a DNS server of their own; its package would start one on port 53 of this host.
case "$packages " in *" nsd "*) $run systemctl mask nsd >/dev/null 2>&1 ;; esac
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
echo "installing for the tests:$packages"
# shellcheck disable=SC2086
if ! { $run apt-get update && $run apt-get install -y --no-install-recommends $packages; } >"$log" 2>&1; then
    tail -n 5 "$log"
    echo "could not install all of:$packages"
fi
case "$packages " in *" nsd "*) $run service nsd stop >/dev/null 2>&1 ;; esac
rm -f "$log"
unpack
exit 0
