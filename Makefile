SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tools live in .tools/bin and node_modules, installed from pinned versions with checksums, never globally.
TOOLS := $(CURDIR)/.tools/bin
BUF := node_modules/.bin/buf
GENERATORS := .tools/generators.installed
LINTER := .tools/linter.installed
JAEGER := $(TOOLS)/all-in-one
NODE_TOOLS := node_modules/.package-lock.json
COMPOSE := $(TOOLS)/docker-compose
RAW_VALUES := node tools/raw-values.mjs

# The TypeScript SDK is a package of its own, with its own pinned versions.
TS := sdk/ts
TS_MODULES := $(TS)/node_modules/.package-lock.json
CHROMIUM ?= /usr/bin/chromium

VERSION = $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null || echo dev)
COMMIT = $(shell git rev-parse --quiet --verify --short=12 HEAD 2>/dev/null || echo unknown)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(GENERATORS) $(LINTER) $(NODE_TOOLS) $(TS_MODULES) ## install the pinned tools into this checkout

$(GENERATORS): tools/go.mod tools/go.sum
	GOBIN=$(TOOLS) go -C tools install tool
	@touch $@

$(LINTER): tools/lint/go.mod tools/lint/go.sum
	GOBIN=$(TOOLS) go -C tools/lint install tool
	@touch $@

# In a module of its own, so that nothing of it is in the project's. It takes minutes, once.
$(JAEGER): tools/jaeger/go.mod tools/jaeger/go.sum
	GOBIN=$(TOOLS) go -C tools/jaeger install tool
	@touch $@

# Without install scripts: buf's binary comes in its platform package.
$(NODE_TOOLS): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Without install scripts, too: esbuild's and TypeScript's binaries come in their platform packages.
$(TS_MODULES): $(TS)/package.json $(TS)/package-lock.json
	npm --prefix $(TS) ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(COMPOSE): tools/compose/go.mod tools/compose/go.sum
	go -C tools/compose build -trimpath -o $@ github.com/docker/compose/v5/cmd

.PHONY: generate
generate: $(GENERATORS) $(NODE_TOOLS) ## rewrite gen/ from proto/
	$(BUF) generate
	$(RAW_VALUES) gen/openapi/raftkv.swagger.json

.PHONY: generate-check
generate-check: $(GENERATORS) $(NODE_TOOLS) ## fail if gen/ is not what proto/ generates
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BUF) generate --output "$$fresh"; \
	$(RAW_VALUES) "$$fresh/gen/openapi/raftkv.swagger.json"; \
	diff -rq gen "$$fresh/gen" || { echo "gen/ is stale: run 'make generate' and commit the result." >&2; exit 1; }; \
	echo "gen/ is fresh."

.PHONY: lint
lint: $(LINTER) $(NODE_TOOLS) $(TS_MODULES) ## buf lint, format and breaking, then golangci-lint and tsc
	$(BUF) lint
	$(BUF) format --diff --exit-code proto
	tools/breaking
	$(TOOLS)/golangci-lint run ./...
	npm --prefix $(TS) run --silent lint

.PHONY: fmt
fmt: $(LINTER) $(NODE_TOOLS) ## format the Go and protobuf sources
	$(BUF) format --write proto
	$(TOOLS)/golangci-lint fmt

.PHONY: test
test: ## run every Go test under the race detector (needs a C compiler), and those of the TypeScript SDK
	go test -race ./...
	$(MAKE) test-ts

.PHONY: test-ts
test-ts: build $(TS_MODULES) ## test the TypeScript SDK, also against real clusters
	npm --prefix $(TS) test

.PHONY: test-browser
test-browser: build $(TS_MODULES) ## test it in pages of headless Chromium; CHROMIUM=/usr/bin/chromium says where that is
	@test -x "$(CHROMIUM)" || { echo "no Chromium at $(CHROMIUM): install it (Debian: apt-get install chromium), or say CHROMIUM=PATH" >&2; exit 1; }
	CHROMIUM=$(CHROMIUM) npm --prefix $(TS) run test:browser

.PHONY: test-disk
test-disk: ## fill real small file systems; needs root to mount them
	@if [ "$$(id -u)" != 0 ]; then echo "not run: TestFullFileSystem (only root can mount file systems)" >&2; exit 1; fi
	go test -tags mount -count 1 -v -run 'TestFullFileSystem$$' ./cmd/raftkv

.PHONY: test-jaeger
test-jaeger: $(JAEGER) ## trace puts over real nodes into a real Jaeger, and print what it shows; needs curl
	JAEGER=$(JAEGER) go test -tags jaeger -count 1 -v -run 'TestJaeger$$' ./cmd/raftkv
# need PROGRAM,PACKAGE fails with what to do if a program is not there. Nothing is installed by itself.
need = @command -v $(1) >/dev/null || { echo "not run: $(1) is missing. Install it: apt-get install --no-install-recommends $(2)" >&2; exit 1; }

.PHONY: test-rules
test-rules: ## test the alerting and recording rules with promtool
	$(call need,promtool,prometheus)
	promtool check rules docker/prometheus/records.yml docker/prometheus/alerts.yml
	cd docker/prometheus && promtool test rules rules_test.yml

.PHONY: test-prometheus
test-prometheus: test-rules ## test-rules, then a real Prometheus scrapes a cluster and answers every query of the dashboard
	$(call need,prometheus,prometheus)
	go test -tags prometheus -count 1 -v -run 'TestPrometheus$$' ./cmd/raftkv

.PHONY: test-docker
test-docker: $(COMPOSE) $(JAEGER) ## build the image and run compose.yaml, with an engine of its own; needs root and a few Debian packages
	docker/test

SEEDS ?= 200
START ?= 1

.PHONY: sim
sim: ## simulate clusters under faults, a run for each of SEEDS=200 seeds from START=1
	go test -c -o bin/sim.test ./raftnode/nodetest
	bin/sim.test -processes=2 -first=$(START) -seeds=$(SEEDS)

SECONDS ?= 30

.PHONY: fuzz
fuzz: ## run every fuzz target for SECONDS=30 each
	tools/fuzz $(SECONDS)

MINUTES ?= 3
KILLS ?= 50
NEMESIS := go build -o bin/nemesis ./raftnode/nodetest/nemesis && bin/nemesis -binary bin/raftkv $(if $(SEED),-seed=$(SEED))

.PHONY: nemesis
nemesis: build ## real processes under real faults for MINUTES=3, as root; SEED=n repeats a plan
	$(NEMESIS) -minutes=$(MINUTES)

.PHONY: failover
failover: build ## kill KILLS=50 leaders of five real processes, as root, and measure the gaps between writes
	$(NEMESIS) -kills=$(KILLS)

BUGS ?=

.PHONY: mutants
mutants: ## show that the tests find every planted bug, or those of BUGS="a b"
	go run ./raftnode/planted/mutants $(BUGS)

.PHONY: failpoints
failpoints: ## end real nodes at every failpoint and look for what they had acknowledged
	go test -tags failpoint ./raftnode/failpoint
	go test -tags failpoint -run 'TestFailpoints$$' ./cmd/raftkv

.PHONY: build
build: ## build bin/raftkv
	go build -trimpath -buildvcs=false -ldflags "-X main.version=$(VERSION) -X main.commit=$(COMMIT)" -o bin/raftkv ./cmd/raftkv

.PHONY: demo
demo: build ## run a local cluster of three nodes
	bin/raftkv demo
