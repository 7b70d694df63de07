# Targets for people and for CI. On a fresh Debian 12 machine with Go 1.26, as
# root, `make demo` and `make test` each do all the set-up they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

FUZZTIME ?= 10s

# Stamping the commit fails in a clone that belongs to somebody else.
export GOFLAGS := -buildvcs=false $(filter-out -buildvcs=%,$(GOFLAGS))

# Packages whose tests mount file systems or start processes: one at a time,
# so that they do not disturb each other's deadlines.
MOUNTING := ./fs/... ./supervisor/... ./worker/... ./keyagent/... ./cmd/... ./drill/... ./internal/...

SOAKTIME ?= 2m
LEAKTIME ?= 1h

CRASHSTATES ?= 2000000
CUTS ?= 1000

.PHONY: build test race lint fuzz crashes powercut soak leaks drills bench bench-quick bench-keys microbench stopping demo ci deps clean

build:                  ## the programs, into bin/
	go build -o bin/ ./cmd/...

test: deps build        ## vet, and every test; a skipped test fails
	go vet ./...
	go run ./scripts/testreport -serial "$(MOUNTING)"

race: deps build        ## every test under the race detector
	go run ./scripts/testreport -serial "$(MOUNTING)" -patience 3 -- -race

lint:                   ## gofmt, vet, staticcheck, shell syntax
	scripts/lint

fuzz:                   ## every fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

crashes:                ## CRASHSTATES crash states of each explorer (some hours)
	CMKFS_CRASH_STATES=$(CRASHSTATES) go test ./meta -count=1 -timeout 0 -v -run 'CrashExplorer|AllSequences|ManyLives'

powercut: deps          ## CUTS power cuts of a real ext4 under a volume, a tenth as many under a mount (five minutes)
	CMKFS_POWER_CUTS=$(CUTS) go test -p 1 ./meta ./supervisor -count=1 -timeout 1h -v -run TestPowerCut

soak: deps build        ## random deaths of processes under load, for SOAKTIME
	go run ./scripts/soak -time $(SOAKTIME)

leaks: deps build       ## unpack, compare and remove a tree for LEAKTIME; memory and descriptors as a table
	go run ./scripts/soak -leaks docs/leaks.csv -time $(LEAKTIME)

drills: deps build      ## all drills; with SOAKTIME=2h random ones, for that long
ifeq ($(origin SOAKTIME),file)
	bin/cmkfsd drill run all --report bench-results/drills
else
	go run ./scripts/soak -drills -time $(SOAKTIME) $(if $(SEED),-seed $(SEED))
endif

BENCHFLAGS ?=

bench: deps build       ## all workloads beside ext4, FUSE's bounds and four others, judged (over an hour)
	scripts/install-deps bench
	go run ./scripts/bench $(BENCHFLAGS)

bench-keys: deps build   ## a customer-managed key beside a platform-managed one, keys changed under load (10 minutes)
	go run ./scripts/bench -keys -r 5 $(BENCHFLAGS)

bench-quick: deps build ## the main rows at small sizes, beside ext4 and gocryptfs, in under three minutes
	scripts/install-deps bench-quick
	go run ./scripts/bench -quick $(BENCHFLAGS)

microbench:             ## benchmarks of single parts, six times each, for benchstat (ten minutes)
	mkdir -p bench-results
	go test -run '^$$' -bench 'Sequence|Commit|Lookup|GetAttr|ReadDir|Extent|Adapter' -count 6 ./crypto ./meta ./fs \
	  | tee bench-results/micro-$$(git describe --always --dirty).txt

stopping: deps build    ## how long a stop takes with a million cached inodes (5 minutes)
	go run ./scripts/stopping

demo: deps build        ## the main job on real input, told step by step
	go run ./scripts/demo

ci:                     ## what continuous integration runs
	.ci/run

deps:                   ## Debian packages that are missing
	@scripts/install-deps

clean:
	rm -rf bin bench-results coverage.out
