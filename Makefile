# make run    a complete server in the folder run/, without root and without a configuration of yours
# make test   every test; installs the programs that tests speak with, where it may, and names what it had to skip
# make soak   power cuts, kills and failing calls; takes minutes, root and loop devices; make soak-full, with other
#             servers beside, an hour
# make bench  speed and costs beside Postfix, Exim, OpenSMTPD and Dovecot, as tests/bench/bench.rs tells; needs root
# make check  format, lints, documentation
# make fuzz   each fuzzer of tests/fuzz for FUZZ_TIME seconds, two at a time; FUZZ_TARGETS names those to run; needs a C++
#             compiler for libFuzzer
# make install  what make has built, into $(DESTDIR)$(PREFIX), with the man pages, samples and units for systemd; make
#             uninstall takes it away again

PREFIX ?= /usr/local
CARGO ?= cargo
PROGRAM = target/release/postrider
FUZZ_TIME ?= 600
FUZZ_TARGETS ?=

.PHONY: run build test bench soak soak-full check fuzz install uninstall

build:
	$(CARGO) build --release --locked

run: build
	@sh tests/demo.sh $(PROGRAM)

test:
	@sh tests/programs.sh
	@list=$$(mktemp); echo "$(CARGO) test --locked"; \
	SKIPPED_TESTS=$$list $(CARGO) test --locked; result=$$?; \
	if [ -s "$$list" ]; then sort -u "$$list"; else echo "no test was skipped"; fi; \
	rm -f "$$list"; exit $$result

SOAK = python3 -B tests/soak/soak.py --binary $(PROGRAM)
SWEEP = python3 -B tests/soak/sweep.py --binary $(PROGRAM)

soak: build
	@sh tests/programs.sh
	$(SOAK) --scale soak
	$(SWEEP)

soak-full: build
	@sh tests/programs.sh
	$(SOAK) --scale full --servers Postrider,Postfix,Exim,OpenSMTPD
	$(SWEEP)

# Where on the disk (Exim and OpenSMTPD run with a /var of their own, so not there), and how much: quick, whole or full.
BENCH_FOLDER ?= /srv
BENCH ?= whole

bench:
	@sh tests/programs.sh bench
	$(CARGO) bench --locked --bench bench --no-run
	@folder=$$(mktemp -d $(BENCH_FOLDER)/postrider-bench.XXXXXX) && chmod 755 $$folder || exit; \
	BENCH=$(BENCH) TMPDIR=$$folder $(CARGO) bench --quiet --locked --bench bench; result=$$?; \
	rm -rf $$folder; exit $$result

check:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fuzz:
	@CARGO="$(CARGO)" sh tests/fuzz/run.sh $(FUZZ_TIME) $(FUZZ_TARGETS)

install:
	@test -x $(PROGRAM) || { echo "there is no $(PROGRAM) yet: run make first, as yourself"; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8
	install $(PROGRAM) $(DESTDIR)$(PREFIX)/sbin/postrider
	install -m 644 etc/*.5 $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 644 etc/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -d $(DESTDIR)$(PREFIX)/share/examples/postrider
	install -m 644 etc/postrider.toml $(DESTDIR)$(PREFIX)/share/examples/postrider/postrider.toml
	install -m 644 etc/logrotate.conf $(DESTDIR)$(PREFIX)/share/examples/postrider/logrotate.conf
	install -m 644 etc/fail2ban/filter.d/postrider.conf $(DESTDIR)$(PREFIX)/share/examples/postrider/fail2ban-filter.conf
	install -m 644 etc/fail2ban/jail.d/postrider.conf $(DESTDIR)$(PREFIX)/share/examples/postrider/fail2ban-jail.conf
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in postrider.service postrider.socket; do \
	    sed 's,/usr/local/sbin,$(PREFIX)/sbin,' etc/$$unit >$(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit && \
	    chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit; done

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/postrider
	cd etc && for page in *.5; do rm -f $(DESTDIR)$(PREFIX)/share/man/man5/$$page; done
	cd etc && for page in *.8; do rm -f $(DESTDIR)$(PREFIX)/share/man/man8/$$page; done
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/postrider.service
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/postrider.socket
	rm -f $(DESTDIR)$(PREFIX)/share/examples/postrider/postrider.toml
	rm -f $(DESTDIR)$(PREFIX)/share/examples/postrider/logrotate.conf
	rm -f $(DESTDIR)$(PREFIX)/share/examples/postrider/fail2ban-filter.conf
	rm -f $(DESTDIR)$(PREFIX)/share/examples/postrider/fail2ban-jail.conf
	-rmdir $(DESTDIR)$(PREFIX)/share/examples/postrider
