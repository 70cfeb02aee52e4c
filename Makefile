# AgentLab. `make demo` shows it on a real sandbox, `make test` tests it.
# Needs Go, git and make. What else a target needs is installed with apt for
# root and named, with the command, for anyone else.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)
LIB    := $(DESTDIR)$(PREFIX)/lib/agentlab

# A git that may not read this tree (another user's clone) must not fail the build.
export GOFLAGS += -buildvcs=$(if $(shell git rev-parse HEAD 2>/dev/null),true,false)

# With a C compiler the store is mattn/go-sqlite3 and tests run under the race
# detector; without one it is modernc.org/sqlite and they don't. Asked for in
# recipes, since one before may just have installed the compiler.
cgo  = $$([[ $${CGO_ENABLED:-1} != 0 ]] && .ci/need --quiet cc && echo 1 || echo 0)
GUEST = CGO_ENABLED=0 go build -trimpath -ldflags='-s -w'

RUNSC_MODULE := provisioner/local/runsc

.PHONY: all
all: build

.PHONY: demo
demo: build ## show the main job on a real sandbox; BACKEND=proxmox on a simulated Proxmox VE
	@[[ '$(BACKEND)' != proxmox || '$(GUESTS)' == process ]] || .ci/need vm || echo 'going on without them' >&2
	@CGO_ENABLED=0 go run ./internal/demo $(if $(BACKEND),-backend '$(BACKEND)') $(if $(GUESTS),-guests '$(GUESTS)')

.PHONY: test
test: tools build ## run the whole test suite
	@failed=0; if [[ $(cgo) == 1 ]]; then \
		GORACE=atexit_sleep_ms=0 go test -p=3 -race -timeout=20m -shuffle=on $$(go list ./... | grep -v '/crashtest$$') || failed=1; \
	else \
		echo 'no C compiler: testing without the race detector, on modernc.org/sqlite' >&2; \
		CGO_ENABLED=0 go test -timeout=20m -shuffle=on -skip='^TestSchedules$$' $$(go list ./... | grep -Ev '/(crashtest|histories)$$') || failed=1; \
	fi; \
	$(MAKE) --no-print-directory crashes || failed=1; \
	exit $$failed

# Not under the race detector, which would slow the tests and not the daemon that they kill.
.PHONY: crashes
crashes: build ## kill the daemon at each fail-point of each operation; play 500 random histories, and 100,000 schedules
	@export AGENTLAB_TEST_REPORT=$$(mktemp); start=$$SECONDS; \
	trap 'cat "$$AGENTLAB_TEST_REPORT"; rm "$$AGENTLAB_TEST_REPORT"; echo "crashes and histories: $$((SECONDS - start)) s"' EXIT; \
	failed=0; CGO_ENABLED=0 go test -count=1 -p=2 -timeout=20m -shuffle=on ./internal/crashtest ./internal/histories || failed=1; \
	CGO_ENABLED=0 go test -count=1 -timeout=20m -run='^TestSchedules$$' ./sessions || failed=1; \
	exit $$failed

.PHONY: load
load: build ## end the daemon again and again under 100 sandboxes that are used; a minute or two
	@CGO_ENABLED=0 go test -count=1 -timeout=20m -v -run='^TestRestartUnderLoad$$' ./internal/crashtest -sandboxes=100

# Under the race detector a few histories are played; all of them without it.
.PHONY: histories
histories: ## play 500 random histories; one that fails says how it is played again
	@CGO_ENABLED=0 go test -timeout=20m ./internal/histories

SOAK_HISTORIES ?= 10000
SOAK_TIME      ?= 1h

.PHONY: soak
soak: build ## play SOAK_HISTORIES=10000 new histories, and let a daemon work for SOAK_TIME=1h
	@CGO_ENABLED=0 go test -count=1 -v -timeout=24h ./internal/histories -rapid.seed=0 -rapid.checks=$$((($(SOAK_HISTORIES) + 3) / 4))
	@CGO_ENABLED=0 go run ./internal/soak -time '$(SOAK_TIME)'

.PHONY: e2e
e2e: build internal/e2e/node_modules/.package-lock.json ## drive it with MCP clients of others and the official conformance suite (Node.js)
	@go test -tags=e2e -count=1 -timeout=20m ./internal/e2e
	@go test -tags=e2e -count=1 -run='^TestConformance$$' ./mcpserver

# Left out is what moves much data, starts many processes, each of which takes half
# a second under emulation, or asks nothing of a real system; over SSH also what
# agentlab-guest does as everywhere.
VM       ?= TestMachine|TestTemplateOnVMs|TestScriptsOnVMs
SKIP     := MuchOutput|StalledReader|FailingWriter|ManyAtOnce|Forgets|Ring|BigFile|ListLimits|NoStart|Environment|BrokenConnectionKills|StartClips|StartCancel|Read.*s|Write(Fails|Unless|Appends|NoSpace)|Denied|User|StdinIsFed|Timeout|List
SKIP_SSH := Streams|Background|Start|ReadUntil|Control|ProcessesSurvive

.PHONY: vm
vm: build ## boot machines of the simulated Proxmox VE in QEMU
	@.ci/need vm
	@go test -tags=vm -count=1 -timeout=30m -p=1 -v -run='^($(VM))$$' \
		-skip='^TestMachine$$/^(agent|ssh)$$/^($(SKIP))$$|^TestMachine$$/^ssh$$/^($(SKIP_SSH))$$' \
		./provisioner/proxmox ./provisioner/proxmox/template ./cmd/agentlab

.PHONY: bench
bench: build ## measure it against floors of the same run; JSON=1 for programs, ONLY=proxmox for a part
	@CGO_ENABLED=0 go run ./internal/bench $(if $(JSON),-json) $(if $(ONLY),-only $(ONLY))

.PHONY: lint
lint: bin/golangci-lint ## gofmt, go vet, go.mod, golangci-lint
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
		[[ -z $$unformatted ]] || { echo "gofmt -w $$unformatted" >&2; exit 1; }
	go vet ./...
	go vet -tags=e2e ./internal/e2e ./mcpserver
	go vet -tags=packaging ./internal/dist
	go vet -tags=vm ./provisioner/proxmox ./provisioner/proxmox/template ./cmd/agentlab
	go mod tidy -diff
	bin/golangci-lint run ./...

.PHONY: build
build: bin/agentlab bin/agentlab-guest bin/runsc ## build bin/

.PHONY: install
install: build ## install to PREFIX (/usr/local for root, else ~/.local)
	@install -d '$(LIB)' '$(DESTDIR)$(PREFIX)/bin'
	@install bin/agentlab bin/agentlab-guest bin/runsc '$(LIB)'
	@ln -sfn ../lib/agentlab/agentlab '$(DESTDIR)$(PREFIX)/bin/agentlab'
	@echo 'installed $(DESTDIR)$(PREFIX)/bin/agentlab. To give it to an agent:'
	@command -v agentlab >/dev/null || echo '    export PATH="$(PREFIX)/bin:$$PATH"'
	@echo '    claude mcp add agentlab -- agentlab mcp'

ARCH ?= amd64,arm64

.PHONY: dist
dist: internal/e2e/node_modules/.package-lock.json bin/nfpm bin/cyclonedx-gomod ## build dist/: archives, Debian packages, SBOMs, .mcpb bundles, also of the bridge for macOS and Windows, server.json; ARCH=amd64,arm64
	@CGO_ENABLED=0 go run ./internal/dist -arch '$(ARCH)'
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; for bundle in dist/*.mcpb; do \
		internal/e2e/node_modules/.bin/mcpb unpack "$$bundle" "$$tmp/$${bundle##*/}" >/dev/null; \
		internal/e2e/node_modules/.bin/mcpb validate "$$tmp/$${bundle##*/}/manifest.json"; \
	done

.PHONY: deb
deb: bin/runsc bin/nfpm bin/cyclonedx-gomod ## build dist/ for this machine alone, with the Debian package
	@CGO_ENABLED=0 go run ./internal/dist -arch "$$(go env GOARCH)" -remote '' -runsc "$$PWD/bin/runsc"

.PHONY: packages
packages: bin/runsc bin/nfpm bin/cyclonedx-gomod ## make the packages of the last commit twice, compare them, and install the Debian one on a copy of this system
	@.ci/need dpkg-deb systemd-analyze
	@CGO_ENABLED=0 go test -tags=packaging -count=1 -timeout=20m -run='^TestPackages$$' ./internal/dist

# Built where it is needed, which is for a release: it is as large as all the rest.
GORELEASER := go run github.com/goreleaser/goreleaser/v2@v2.15.1

.PHONY: release
release: ## publish dist/ as a draft of the release that the last commit is tagged as; CHECK=1 only checks how
	@CGO_ENABLED=0 $(GORELEASER) $(if $(CHECK),check,release --clean) -f packaging/goreleaser.yaml

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist internal/e2e/node_modules

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 10

.PHONY: tools
tools:
	@.ci/need cc ssh sshd curl || echo 'going on without them' >&2

# go build knows best whether there is anything to do.
.PHONY: bin/agentlab bin/agentlab-guest
bin/agentlab:
	@cgo=$(cgo); [[ $$cgo == 1 ]] || echo 'no C compiler: building with modernc.org/sqlite' >&2; \
		CGO_ENABLED=$$cgo go build -trimpath -o $@ ./cmd/agentlab
bin/agentlab-guest:
	@$(GUEST) -o $@ ./cmd/agentlab-guest

bin/runsc: $(addprefix $(RUNSC_MODULE)/,go.mod go.sum build _systrap/rest.go)
	@echo 'building gVisor (once, some minutes)' >&2
	@$(RUNSC_MODULE)/build $@.new
	@mv $@.new $@

internal/e2e/node_modules/.package-lock.json: internal/e2e/package-lock.json
	@.ci/need npm
	@cd internal/e2e && npm ci --loglevel=error
	@touch $@

bin/nfpm bin/cyclonedx-gomod: packaging/tools/go.mod
	@echo 'building $(@F) (once)' >&2
	@cd packaging/tools && CGO_ENABLED=0 go build -trimpath -o ../../bin/ "$$(go list tool | grep '/$(@F)$$')"
	@touch $@

bin/golangci-lint: internal/lint/go.mod
	@echo 'building golangci-lint (once, some minutes)' >&2
	@cd internal/lint && CGO_ENABLED=0 go build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@
