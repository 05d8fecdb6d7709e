# make run    a complete server in the folder run/, without root and without a configuration of yours
# make test   every test; installs the programs that tests speak with, where it may, and names what it had to skip
# make bench  speed and costs beside Postfix, Exim, OpenSMTPD and Dovecot, as tests/bench/bench.rs tells; needs root
# make check  format, lints, documentation
# make install  into $(DESTDIR)$(PREFIX), with the man pages and a sample; make uninstall takes it away again

PREFIX ?= /usr/local
CARGO ?= cargo

.PHONY: run build test bench check install uninstall

build:
	$(CARGO) build --release --locked

run: build
	@sh tests/demo.sh target/release/postrider

test:
	@sh tests/programs.sh
	@list=$$(mktemp); echo "$(CARGO) test --locked"; \
	SKIPPED_TESTS=$$list $(CARGO) test --locked; result=$$?; \
	if [ -s "$$list" ]; then sort -u "$$list"; else echo "no test was skipped"; fi; \
	rm -f "$$list"; exit $$result

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
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

install: build
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8
	install target/release/postrider $(DESTDIR)$(PREFIX)/sbin/postrider
	install -m 644 etc/*.5 $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 644 etc/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -d $(DESTDIR)$(PREFIX)/share/examples/postrider
	install -m 644 etc/postrider.toml $(DESTDIR)$(PREFIX)/share/examples/postrider/postrider.toml

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/postrider
	cd etc && for page in *.5; do rm -f $(DESTDIR)$(PREFIX)/share/man/man5/$$page; done
	cd etc && for page in *.8; do rm -f $(DESTDIR)$(PREFIX)/share/man/man8/$$page; done
	rm -f $(DESTDIR)$(PREFIX)/share/examples/postrider/postrider.toml
	-rmdir $(DESTDIR)$(PREFIX)/share/examples/postrider
