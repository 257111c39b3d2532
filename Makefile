# Targets for people. CI runs .ci/run, which calls `make test`.

FUZZTIME ?= 30s
VERSION  := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X cowl/internal/cli.buildVersion=$(VERSION)

export CGO_ENABLED = 0

.PHONY: build test long race lint demo bench bench-backup bench-look fuzz setup clean kopia

build: ## the static binary ./cowl
	go build -trimpath -ldflags '$(LDFLAGS)' -o cowl ./cmd/cowl

test: ## what every change must pass
	go vet ./...
	go test -timeout 20m ./...

long: ## the same with the simulations' full length (hours on 2 cores)
	COWL_LONG=1 go test -timeout 6h ./...

race: ## the concurrent packages under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -timeout 30m ./internal/...

lint: bin/staticcheck ## gofmt, vet on three systems, staticcheck
	scripts/lint

demo: build ## the whole story on a real file system
	./cowl demo

bench: ## cowl beside its peers, as ratios (BENCH=-full, BENCH=-quick; see docs/benchmark.md)
	go run ./bench $(BENCH)

bench-backup: ## backups beside restic, borg, qemu-img and dd (Debian's packages restic, borgbackup)
	go run ./bench -backup $(BENCH)

bench-look: ## files in an image beside find and tar on a cold mount of it (as root)
	go run ./bench -look $(BENCH)

fuzz: ## every fuzz target for FUZZTIME each
	FUZZTIME=$(FUZZTIME) scripts/fuzz

setup: ## Debian packages that the judges need (as root)
	scripts/setup

KOPIA = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cowl/kopia-v0.23.1

kopia: $(KOPIA) ## the stock kopia, which judges repositories; built once, in minutes, and kept in the cache
$(KOPIA):
	go build -C tools -trimpath -ldflags '-s -w' -tags 'tools nohtmlui no_extra_providers' -o $@ github.com/kopia/kopia

bin/staticcheck: tools/go.mod tools/go.sum
	go build -C tools -tags tools -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck

clean:
	rm -rf cowl bin
