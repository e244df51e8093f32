# What people type: `make up` and `make test`. Every other target is a step of those, or of a release.

TRIPLE  := x86_64-unknown-linux-gnu
RELEASE := target/$(TRIPLE)/release/corediscover
IMAGE   := corediscover:latest
# A blank machine in a container, for tests/cluster and Vagrant's docker provider.
NODE_IMAGE := corediscover-node
# One static file of at most 20 MB: what goes into a FROM scratch image and onto machines by curl.
BINARY_BYTES_MAX := 20000000
# program (or a file's whole path):Debian package. A package with `-` behind it is not installed: libvirt would come with vagrant otherwise.
BUILD_TOOLS := cc:gcc strip:binutils make:make protoc:protobuf-compiler pkg-config:pkg-config /usr/include/openssl/ssl.h:libssl-dev
TEST_TOOLS  := etcd:etcd-server etcdctl:etcd-client dig:dnsutils busybox:busybox-static docker:docker.io systemd-analyze:systemd bash:bash dash:dash ip:iproute2 faketime:faketime mkfs.ext4:e2fsprogs \
  mmdebstrap:mmdebstrap cloud-init:cloud-init ignition-validate:ignition vagrant:vagrant vagrant:vagrant-libvirt- ruby:ruby docker-compose:docker-compose unshare:util-linux sshd:openssh-server ssh-keygen:openssh-client script:bsdutils \
  hostname:hostname dbus-daemon:dbus-daemon nsenter:util-linux setpriv:util-linux
FUZZ_TOOLS  := c++:g++
# All of them, or `make fuzz TARGET=dns_message`.
FUZZ_TARGETS = $(or $(TARGET),$(basename $(notdir $(wildcard fuzz/targets/*.rs))))
SECONDS ?= 60
JOBS ?= $(shell nproc)
# 0: by chance, and told.
SEED ?= 0
MINUTES ?= 10
BENCH_TOOLS := dnsperf:dnsperf knotd:knot unbound:unbound etcd:etcd-server

# Tests whose names begin so are simulations.
SIMULATIONS := births_ clusters_

.PHONY: up build test test-cluster node-image simulate simulate-mutants lint fmt deny release image regenerate bench fuzz build-tools test-tools bench-tools fuzz-tools soak soak-simulations soak-storage soak-processes soak-fuzz fuzz-build

up: build
	@target/debug/corediscover up $(ARGS)

build: build-tools
	cargo build --locked

test: test-tools image node-image
	cargo test --locked $(ARGS)

# Only clusters of three machines, each with systemd, Docker and etcd. ARGS='--nocapture' tells how long each step took.
test-cluster: test-tools release node-image
	cargo test --locked --test cluster -- $(ARGS)

node-image: test-tools
	tests/cluster/node/build $(NODE_IMAGE)

# Only the simulations. ARGS='--nocapture' and the environment (src/simulation/mod.rs) go through to them.
simulate: build-tools
	cargo test --locked --lib -- $(SIMULATIONS) $(ARGS)

# Plants faults in the code, one at a time, and fails when the simulations do not find one (src/simulation/mutants.rs).
simulate-mutants: build-tools
	cargo test --locked --lib -- planted_ --nocapture $(ARGS)

# The long form of all that looks for rare faults, with fresh seeds, which are printed: MINUTES=60 make soak, a whole number.
# Every part is run; it fails at the end if one of them has failed. The processes alone take a quarter of an hour at least: ten
# minutes of them are one test. docs/guarantees.md has the last results.
soak: test-tools fuzz-tools
	@$(MAKE) --no-print-directory --keep-going soak-simulations simulate-mutants soak-storage soak-processes soak-fuzz

soak-simulations:
	CDSIM_MINUTES=$(MINUTES) cargo test --locked --lib -- $(SIMULATIONS) --test-threads=8

soak-storage:
	COREDISCOVER_CRASH_RUNS=$$(($(MINUTES) * 10)) cargo test --locked --lib -- crash_tests

soak-processes:
	COREDISCOVER_SOAK_MINUTES=$(MINUTES) cargo test --locked --test it -- --nocapture --test-threads=1 linearizability stress

soak-fuzz:
	@$(MAKE) --no-print-directory fuzz SECONDS=$$(($(MINUTES) * 12))

lint: build-tools
	cargo clippy --locked --all-targets --all-features -- -D warnings

fmt:
	cargo fmt --check

deny:
	@command -v cargo-deny >/dev/null || cargo install --locked --debug cargo-deny
	cargo deny check bans licenses sources

# Relocations as a bitmap take 1 MB less; glibc's start code understands that from 2.36 on.
RELR := $(shell getconf GNU_LIBC_VERSION 2>/dev/null | \
  awk '{ split($$2, v, "."); if (v[1] > 2 || v[2] >= 36) print "-C link-arg=-Wl,--pack-dyn-relocs=relr" }')

# OpenSSL, on which SSH stands, is linked in too.
release bench: export OPENSSL_STATIC := 1

RELEASE_FLAGS := -C target-feature=+crt-static

# glibc linked in: no dynamic library is needed where it runs. Equal functions, of which generic code makes many, are
# folded by lld, which rustc links with on this target.
release: build-tools
	RUSTFLAGS='$(RELEASE_FLAGS)' cargo rustc --locked --release --target $(TRIPLE) --bin corediscover -- \
	  -C link-arg=-Wl,--icf=all -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-T,$(CURDIR)/.cargo/release.ld $(RELR)
	@strip $(RELEASE)
	@size=$$(stat -c %s $(RELEASE)); test $$size -le $(BINARY_BYTES_MAX) || \
	  { echo "error: $(RELEASE) has $$size bytes, at most $(BINARY_BYTES_MAX) are allowed" >&2; exit 1; }

image: release
	@command -v docker >/dev/null || { echo 'error: docker is missing' >&2; echo 'hint: apt-get install docker.io' >&2; exit 1; }
	rm -rf target/image
	mkdir -p target/image/root/bin target/image/root/config target/image/root/data target/image/root/tmp
	cp $(RELEASE) target/image/root/bin/corediscover
	ln -s corediscover target/image/root/bin/consul
	ln -s corediscover target/image/root/bin/registrator
	cp units/image/agent.json target/image/root/config/
	cp units/image/Dockerfile target/image/
	docker build --quiet --tag $(IMAGE) target/image

# Rewrites units/, cloud-config/, vagrant/ and the transcripts; review the difference before committing it.
regenerate: build-tools
	UPDATE_EXPECT=1 cargo test --locked --lib
	UPDATE_EXPECT=1 cargo test --locked --test it provision

# Prints the table of docs/benchmarks.md three minutes after the build; ARGS='--seconds 1 dns kv' measures less.
bench: bench-tools release
	RUSTFLAGS='$(RELEASE_FLAGS)' cargo build --locked --release --target $(TRIPLE) --features bench \
	  --bin corediscover-bench
	target/$(TRIPLE)/release/corediscover-bench $(ARGS)

# Runs each target for SECONDS with libFuzzer, JOBS of them at once, from its seeds and what was found before. SEED=1 plays
# the same inputs again where the corpus is empty; 0 is chance.
# No sanitizer: this program has no unsafe code, and without one the stable toolchain is enough.
fuzz: fuzz-build
	@$(MAKE) --no-print-directory --keep-going --output-sync --jobs=$(JOBS) $(addprefix fuzz-,$(FUZZ_TARGETS))

fuzz-build: fuzz-tools
	cd fuzz && cargo fuzz build --fuzz-dir . --sanitizer none --target-dir target

fuzz-%:
	@mkdir -p fuzz/corpus/$* fuzz/found/$* fuzz/artifacts/$*
	@seed=$(SEED); [ $$seed != 0 ] || seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); \
	echo "fuzzing $* for $(SECONDS) s with SEED=$$seed"; \
	cd fuzz && target/$(TRIPLE)/release/$* -artifact_prefix=artifacts/$*/ corpus/$* seeds/$* found/$* \
	  -seed=$$seed -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 || \
	  { echo "hint: reduce the input with \`cargo fuzz tmin\`, keep it in fuzz/found/$*, and correct what it shows" >&2; exit 1; }

# Installs what is missing when it may, else names it.
define need
	@missing=; for pair in $(1); do case $$pair in /*) test -e $${pair%%:*};; *) command -v $${pair%%:*} >/dev/null 2>&1;; esac || missing="$$missing $${pair##*:}"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	else echo "error: these packages are missing:$$missing" >&2; echo "hint: sudo apt-get install$$missing" >&2; exit 1; fi
endef

build-tools:
	$(call need,$(BUILD_TOOLS))
	@command -v cargo >/dev/null || { echo 'error: cargo is missing' >&2; echo 'hint: install Rust from https://rustup.rs' >&2; exit 1; }

test-tools: build-tools
	$(call need,$(TEST_TOOLS))

fuzz-tools: build-tools
	$(call need,$(FUZZ_TOOLS))
	@command -v cargo-fuzz >/dev/null || cargo install --locked --debug cargo-fuzz

bench-tools:
	$(call need,$(BENCH_TOOLS))
