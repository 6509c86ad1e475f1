.PHONY: run build test bench fuzz chaos

# The server with a demo peer: the curl command that it prints goes through a
# real WireGuard tunnel. Data stays in ./data; delete it to start over.
run: build
	GC_DATA_DIR=./data GC_HTTP_LISTEN=:8080 GC_HTTPS_LISTEN=:8443 GC_WG_HOST=127.0.0.1 bin/gatecontrol serve --demo

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
build:
	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X main.version=$(VERSION)" -o bin/gatecontrol ./cmd/gatecontrol

# Every check and every test. As root on Debian it installs the programs that
# some tests need; elsewhere those tests are skipped and say so.
test:
	scripts/test

# Every benchmark that this machine can run, ROUNDS rounds of SECS seconds where
# rows are compared; docs/performance.md tells how to read them.
ROUNDS ?= 3
SECS ?= 3
bench: build
	ROUNDS=$(ROUNDS) SECS=$(SECS) scripts/bench

# Every fuzz target for FUZZTIME each.
FUZZTIME ?= 1m
fuzz:
	scripts/fuzz $(FUZZTIME)

# CHAOS_BYTES through a tunnel over a network that loses, reorders, duplicates
# and corrupts, compared by hash and with the race detector on; then the other
# cases of such networks, with longer blackouts.
CHAOS_BYTES ?= 1073741824
chaos:
	GC_CHAOS_BYTES=$(CHAOS_BYTES) go test -race -timeout 60m -v -run='^TestChaos' ./netstack/
	go test -race -timeout 20m -v -run='^TestBadNetwork$$' ./app/
