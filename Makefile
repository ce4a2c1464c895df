# Each target sets the machine up first, so that it works on a fresh Debian or
# Ubuntu with Go and root or sudo. ARGS="..." is handed on to what it runs.

.DEFAULT_GOAL := help
.PHONY: help setup setup-go setup-test setup-all setup-faults check-kubernetes setup-kubernetes setup-lint setup-redis setup-release build demo up lab exercise bench faults kubernetes unit test test-all soak lint release pictures screenshots

# Programs for the same commit are the same wherever its tree stands. They say the
# commit where Git answers. In a tree of another user's it does not, which would stop
# the build. The tests build with these flags, too, and never ask Git.
VCS := $(shell git log -1 >/dev/null 2>&1 && echo true || echo false)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup build ## the proof: one SKU sold out on 3 replicas, unguarded and under the etcd mutex
	@bin/loadtest prove $(ARGS)

up: setup build ## a private stack with 3 replicas, until Ctrl-C
	@bin/loadtest up $(ARGS)

lab: setup build ## the race lab, in the browser, until Ctrl-C
	@bin/loadtest lab $(ARGS)

exercise: setup build ## exercises for students, on real servers: ARGS="start find-the-race", then ARGS="check"
	@bin/loadtest exercise $(ARGS)

bench: setup setup-redis build ## the service beside its rivals, in at most 15 minutes
	@bin/loadtest bench $(ARGS)

faults: setup-faults build ## make one part after another fail on real servers, and prove that nothing was lost, in about 25 minutes
	@bin/loadtest faults $(ARGS)

kubernetes: check-kubernetes setup-kubernetes build ## sell on a real Kubernetes of one node, in about 2 minutes (20 the first time: it is built from source)
	@bin/loadtest kubernetes $(ARGS)

unit: ## the tests that need no server, in less than a minute
	@scripts/setup
	@scripts/test unit $(ARGS)

test: setup-test ## and the product's, with a database and etcd, in about 3 minutes (5 the first time)
	@scripts/test product $(ARGS)

test-all: setup-all ## every test, with every server and the race detector, and again on MariaDB, in about 50 minutes
	@scripts/test all $(ARGS)

soak: setup-all build ## the long versions: each fuzz test for a minute, 20 zombie runs of each lock, all faults, then random calls, in about 50 minutes
	@scripts/fuzz 1m
	@bin/loadtest zombies --runs 20
	@bin/loadtest faults
	@bin/loadtest soak --duration 15m $(ARGS)

lint: setup-lint ## gofmt, go vet, golangci-lint
	@files=$$(gofmt -l .) || exit 1; if [ -n "$$files" ]; then echo "gofmt -w is needed on:" $$files; exit 1; fi
	go vet ./...
	go -C tests vet ./...
	go tool -modfile=tools/golangci-lint.mod golangci-lint run $(ARGS)
	cd tests && go tool -modfile=../tools/golangci-lint.mod golangci-lint run $(ARGS)

build: setup-go ## bin/api and bin/loadtest
	@$(GO_BUILD) -o bin/api ./cmd/api
	@$(GO_BUILD) -o bin/loadtest ./loadtest

release: setup-release ## a dry run: archives, checksums and SBOMs of all systems, in dist
	@scripts/release

pictures: ## draw docs/images/*.svg from the texts beside them, and those of the take-over from its model
	@scripts/setup --spin
	@go test ./model -count=1 -run TestPicturesShowTheModel -update
	@for name in no-claim claim-after write-only; do \
		go tool -modfile=tools/d2.mod d2 --theme 0 --pad 10 docs/images/takeover-$$name.d2 docs/images/takeover-$$name.svg || exit 1; done
	@go tool -modfile=tools/d2.mod d2 --layout elk --theme 0 --pad 10 --elk-nodeNodeBetweenLayers 30 --elk-edgeNodeBetweenLayers 20 \
		docs/images/architecture.d2 docs/images/architecture.svg

screenshots: ## take docs/images/*.png of the pages, in the tests that open them, in about 3 minutes
	@scripts/setup --database --modules --tests --chromium
	@FLASHSALE_SCREENSHOTS=$(CURDIR)/docs/images go -C tests test ./browser -count=1 $(ARGS)

setup: ## install a database, where there is none: MariaDB's programs
	@scripts/setup --database

setup-go:
	@scripts/setup

setup-test:
	@scripts/setup --database --modules

setup-all:
	@scripts/setup --mariadb --mysql --galera --nftables --faketime --modules --tests --race --curl --typescript --python --codegen --promtool --vegeta --redis --memcached --haproxy --zookeeper --chromium --spin --kubernetes

setup-faults:
	@scripts/setup --database --mysql --nftables --faketime

# What the machine lacks must not show only after the programs were built.
check-kubernetes: build
	@bin/loadtest kubernetes --check

setup-kubernetes:
	@scripts/setup --mysql --zookeeper --kubernetes

setup-lint:
	@scripts/setup --tests --lint

setup-release:
	@scripts/setup --sbom

setup-redis:
	@scripts/setup --redis
