# Every developer action is one target; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
BUF_VERSION := 1.75.0
BUF := $(CACHE)/buf/node_modules/.bin/buf
# Programs in Go, built at these versions.
TOOLS := $(CACHE)/bin
GHZ := github.com/bojand/ghz/cmd/ghz@v0.121.0
GRPCURL := github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
GO_PLUGINS := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
PROMETHEUS ?= http://127.0.0.1:9090
# What the contract must stay compatible with.
BREAKING_AGAINST ?= .git\#branch=main,subdir=proto

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-long test-client test-gpu examples examples-stubs load soak bench bench-overhead bench-memory bench-loading bench-telemetry bench-report quality lint format proto constraints dashboard showcase image check-image clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make the environment in .venv

$(VENV)/.installed: pyproject.toml client/pyproject.toml server/pyproject.toml constraints/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "easyanim needs Python 3.10 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@# Of an older clone, where it owned the commands that the distributions bring now.
	@$(BIN)/python -m pip uninstall -qqq --disable-pip-version-check --yes easyanim
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints/constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## Start a server on builtin:demo, make a video of examples/coffee.jpg, stop the server
	$(BIN)/python dev/ci/demo.py

serve: install ## Serve builtin:demo on 127.0.0.1:50051
	$(BIN)/easyanim-server serve --model builtin:demo

test: install ## The tests that need neither GPU nor network; not the long ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not bench and not long"

test-long: install ## The long tests: recorded videos, caches, tune, training, benchmarks of themselves
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "long and not gpu and not bench"

test-client: install ## The distributions in clean environments, and what the client's one may weigh and bring
	PYTHON=$(BIN)/python dev/ci/check_client.sh

test-gpu: install ## The tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

examples: install $(BUF) $(TOOLS)/grpcurl $(TOOLS)/protoc-gen-go ## The examples in Go and TypeScript, and README's grpcurl lines, against a live server
	PYTHONPATH=. $(BIN)/python dev/ci/check_examples.py --tools $(TOOLS) --buf $(BUF)

examples-stubs: $(BUF) $(TOOLS)/protoc-gen-go ## Generate the Go example's stubs from proto/
	PATH=$(abspath $(TOOLS)):$$PATH $(BUF) generate proto --template examples/go/buf.gen.yaml --output examples/go

load: install $(TOOLS)/ghz ## Load tests with ghz and our own probe; LOAD=--short for those of CI
	PYTHONPATH=. $(BIN)/python dev/load/run.py --ghz $(TOOLS)/ghz $(LOAD)

soak: install ## 100 hostile callers and 20 honest ones for 10 minutes; SOAK=--short for CI's minute, SOAK='--seconds 300'
	PYTHONPATH=. $(BIN)/python dev/load/soak.py $(SOAK)

$(TOOLS)/ghz:
	dev/ci/gotools.sh $(TOOLS) $(GHZ)

$(TOOLS)/grpcurl:
	dev/ci/gotools.sh $(TOOLS) $(GRPCURL)

$(TOOLS)/protoc-gen-go:
	dev/ci/gotools.sh $(TOOLS) $(GO_PLUGINS)

bench: bench-overhead bench-telemetry ## All benchmarks; flags for the one of speed in BENCH, such as BENCH='--full'
	$(BIN)/easyanim-server bench --out bench/results $(BENCH) --force

bench-overhead: install ## What front and worker add to the engine's own time; writes bench/results/overhead.json
	PYTHONPATH=. $(BIN)/python dev/bench/overhead.py

bench-memory: install ## Placements under the memory of smaller cards; flags in BENCH; writes bench/results/*-memory.json
	PYTHONPATH=. $(BIN)/python dev/bench/memory.py $(BENCH)

bench-loading: install ## Seconds and host memory of loading a full-size folder; writes bench/results/*-loading.json
	PYTHONPATH=. $(BIN)/python dev/bench/loading.py $(BENCH)

bench-telemetry: install ## What metrics and traces add to a call; writes bench/results/telemetry.json
	PYTHONPATH=. $(BIN)/python dev/bench/telemetry.py

bench-report: install ## Put bench/results into README.md, docs/*.md, docs/speed.png, docs/speed.html and docs/quality.png
	PYTHONPATH=. $(BIN)/python dev/bench/report.py

quality: install ## Quality of videos against prompts, pictures and a reference; flags in QUALITY; writes bench/results/quality.json
	PYTHONPATH=. $(BIN)/python -m dev.quality $(QUALITY)

lint: install $(BUF) ## Style, types, import contracts, the contract's rules, stubs fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHON=$(BIN)/python dev/ci/proto.sh check
	dev/ci/buf.sh $(BUF) lint proto
	dev/ci/buf.sh $(BUF) format --diff --exit-code proto
	dev/ci/buf.sh $(BUF) breaking proto --against '$(BREAKING_AGAINST)'

format: install ## Format all Python and the contract
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: install examples-stubs ## Generate the stubs from proto/, those of the Go example too, and docs/api.md
	PYTHON=$(BIN)/python dev/ci/proto.sh write

$(BUF):
	dev/ci/buf.sh install $(CACHE)/buf $(BUF_VERSION)

constraints: install ## Resolve the dependencies for every Python, with the newest versions, and pin what was found
	$(BIN)/python -m uv pip compile --quiet --universal --upgrade --python-version 3.10 --strip-extras --no-annotate \
		--no-emit-package easyanim-client --no-emit-package easyanim-server --custom-compile-command 'make constraints' \
		--extra dev pyproject.toml --output-file constraints/constraints.txt

dashboard: install ## Draw docs/dashboard.png from a Prometheus server; its address in PROMETHEUS
	$(BIN)/python dev/docs/draw_dashboard.py --prometheus $(PROMETHEUS)

showcase: install ## Draw docs/demo.webp: one photograph, moved by builtin:demo in five ways
	$(BIN)/python dev/docs/showcase.py

image: ## Build the container image easyanim:dev
	docker build -t easyanim:dev .

check-image: ## Run the Dockerfile's steps without a container engine; needs root and debootstrap
	$(PYTHON) dev/ci/check_image.py

clean: ## Remove everything that was generated outside git
	rm -rf $(VENV) $(CACHE) build dist out
