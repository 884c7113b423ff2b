# One list of checks: CI runs `make test`, a developer runs the same targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# A Python that was named counts, also where .venv is there already with another one (OTHER: which one).
version = $(shell $(1) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)
ifneq ($(origin PYTHON),file)
OTHER := $(filter-out $(call version,$(PYTHON)),$(call version,$(BIN)/python))
endif

# Of `make coverage`, in percent of lines and branches: a little below what was measured. They only go up.
FLOORS := cmp:96 ra:96 ca:79

# Of `make test`: while a test waits for a disk, a process or a clock, a core has another one to run.
WORKERS = $(shell expr $$(nproc) + 1)

.DEFAULT_GOAL := help
# The tests start hundreds of processes: compiled modules save each of them a second or more.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: FORCE help setup lock dist sbom docs bench-fleet bench-ledger bench-strangers bench-workers openssl newer-openssl softhsm slapd postgresql haproxy logrotate prometheus deploy-tools systemd under-load chaos explore soak rolling-restarts install-check deploy-check lint-each fmt lint types contracts test coverage fuzz fuzz-cost demo bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# apt(PACKAGE): install a Debian package if we may, else say what to do.
define apt
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing $(1) with apt-get"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(1); } >&2 \
	    || { echo "error: apt-get could not install $(1); install it by hand and run make again." >&2; exit 1; }; \
	else \
	  echo "error: $(1) is missing. Run: sudo apt-get install $(1)" >&2; exit 1; \
	fi
endef

setup: $(STAMP)  ## Make .venv with everything in it (again only when pyproject.toml changed)

$(STAMP): pyproject.toml $(if $(OTHER),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is missing or older than 3.11. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@if [ -n "$(OTHER)" ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call apt,python3-venv); } || exit 1; \
	  $(PYTHON) -m venv --clear $(VENV) \
	    || { echo "error: $(PYTHON) cannot make a venv; install the venv package of that Python (Debian: python3-venv)." >&2; exit 1; }; \
	fi
	@echo "Installing ra-gateway and its tools into $(VENV); the first time takes a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,test,docs]'
	@touch $@

openssl:
	@command -v openssl >/dev/null || { $(call apt,openssl); }
	@openssl cmp -help >/dev/null 2>&1 \
	  || { echo "error: $$(openssl version) has no 'cmp' command; the tests need OpenSSL 3.0 or newer." >&2; exit 1; }

newer-openssl: setup  ## Fetch OpenSSL 3.5 into build/, for tests, where the machine's is older
	@$(BIN)/python -m tests.support.newer_openssl

softhsm:
	@command -v softhsm2-util >/dev/null || { $(call apt,softhsm2); }
	@command -v pkcs11-tool >/dev/null || { $(call apt,opensc); }

slapd:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v slapd >/dev/null || { $(call apt,slapd); }

prometheus:
	@command -v promtool >/dev/null || { $(call apt,prometheus); }

postgresql:
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null \
	  || { $(call apt,postgresql); }

haproxy:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v haproxy >/dev/null || { $(call apt,haproxy); }

logrotate:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v logrotate >/dev/null || { $(call apt,logrotate); }

deploy-tools: setup  ## Fetch what looks at deploy/ in the tests, into build/
	@$(BIN)/python -m tests.support.deploy_tools

systemd:
	@command -v systemd-analyze >/dev/null || { $(call apt,systemd); }

# compile(FILE, ARGUMENTS): write a lock file; UV_* and indexes of this machine have no place in it.
define compile
	build/lock/bin/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet --upgrade -o $(1) $(2)
endef

lock:  ## Renew the lock files that production installs from
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(call compile,requirements.lock,pyproject.toml)
	@$(call compile,requirements-all.lock,--extra all pyproject.toml)
	@echo 'hatchling>=1.24' | $(call compile,requirements-build.lock,-)

# The packages of the build are those of its lock file, too.
dist:  ## Build what a machine in production installs, into dist/: the wheel and the lock files
	@$(PYTHON) -m venv --clear build/wheel
	@build/wheel/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.lock
	@rm -rf dist && build/wheel/bin/python -m hatchling build -t wheel -d dist
	@cp requirements.lock requirements-all.lock dist/

sbom: deploy-tools  ## Write dist/sbom.cdx.json, the bill of materials (CycloneDX) of requirements-all.lock
	@$(BIN)/python -m tests.support.deploy_tools dist/sbom.cdx.json

docs: setup  ## Build the documents as a site, build/docs/site/index.html; fails on a link that leads nowhere
	@$(BIN)/python docs/build_site.py

fmt: setup  ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup  ## Check formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup  ## Check types (mypy strict)
	$(BIN)/mypy

contracts: setup  ## Check which module may import which
	$(BIN)/lint-imports --no-cache

test: setup openssl newer-openssl softhsm slapd postgresql haproxy logrotate prometheus systemd lint types contracts  ## Run every check and every test (PYTEST_ARGS="-k word" for some)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

coverage: setup openssl softhsm slapd postgresql  ## Measure which lines and branches the unit and conformance tests run; fails below a floor
	@mkdir -p build/coverage && rm -f build/coverage/data*
	$(BIN)/coverage run -m pytest tests/unit tests/conformance
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@for floor in $(FLOORS); do \
	  echo "ra_gateway/$${floor%:*}, at least $${floor#*:} percent:"; \
	  $(BIN)/coverage report --format=total --include="ra_gateway/$${floor%:*}/*" --fail-under="$${floor#*:}" || exit 1; \
	done

fuzz: setup  ## Fuzz with a million inputs (INPUTS=..., SEED=...; MINIMISE=1 then renews the corpus); about half an hour
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]' \
	  || { echo "error: pip could not install atheris; 'make fuzz' needs it." >&2; exit 1; }
	@$(BIN)/python -m tests.fuzz.run --inputs $(or $(INPUTS),1000000) --seed $(or $(SEED),1) \
	  $(if $(filter-out 0 no,$(MINIMISE)),--minimise)

fuzz-cost: setup  ## Look for the dearest inputs (INPUTS=..., SEED=...; KEEP=1 puts them among the vectors)
	@$(BIN)/python -m tests.fuzz.cost --inputs $(or $(INPUTS),20000) --seed $(or $(SEED),1) \
	  $(if $(filter-out 0 no,$(KEEP)),--keep)

demo: setup  ## Enrol and renew a simulated base station (KEEP=1 leaves it serving; DIR=..., PORT=...)
	@$(BIN)/ra-gateway demo $(if $(DIR),--dir "$(DIR)") $(if $(PORT),--port $(PORT)) $(if $(filter-out 0 no,$(KEEP)),--keep)

bench: setup postgresql  ## Measure enrolments and the CA's issuances (JSON=FILE: the first as numbers too; AGAINST=COMMIT: against another version)
ifdef AGAINST
	@$(BIN)/python -m tests.bench.versions --against "$(AGAINST)" $(if $(JSON),--json "$(JSON)")
else
	@$(BIN)/python -m tests.bench.run $(if $(JSON),--json "$(JSON)")
	@$(BIN)/python -m tests.bench.ca --postgres
endif

bench-ledger: setup postgresql  ## Measure ledgers of 10,000, 100,000 and 1,000,000 certificates (some minutes)
	@$(BIN)/python -m tests.bench.ledger --rows 10000,100000,1000000 --postgres

bench-fleet: setup  ## Measure the memory store with 10^3, 10^5 and 10^6 live transactions (SIZES=1000,100000: some 8 GB for a million)
	@$(BIN)/python -m tests.bench.fleet $(if $(SIZES),--sizes "$(SIZES)")

bench-strangers: setup  ## Measure what hostile messages cost at every listener (SHAPES=regex, FLOOD=100000); fails above the goal
	@$(BIN)/python -m tests.bench.strangers --flood $(or $(FLOOD),100000) $(if $(SHAPES),--shapes "$(SHAPES)") \
	  $(if $(JSON),--json "$(JSON)")

bench-workers: setup  ## Measure enrolments by one and two workers, with the CA in them and apart (JSON=FILE)
	@$(BIN)/python -m tests.bench.workers $(if $(JSON),--json "$(JSON)")

under-load: setup haproxy  ## Reload, restart, roll the RA and take Redis away under load, often (ROUNDS=20)
	@ROUNDS_UNDER_LOAD=$(or $(ROUNDS),20) $(BIN)/python -m pytest -q tests/integration -k "under_load $(ONLY)"

chaos: setup  ## Kill, freeze and cut off gateways, CA and Redis at random while base stations enrol and renew (DISTURBANCES=2400, CHAOS_SEED)
	@DISTURBANCES=$(or $(DISTURBANCES),2400) $(if $(CHAOS_SEED),CHAOS_SEED=$(CHAOS_SEED)) \
	  $(BIN)/python -m pytest -q -s -o timeout=0 tests/integration/test_chaos.py

soak: setup  ## Load workers, CA and Redis with half of their peak; fails if memory or latency grow (MINUTES=30; JSON=FILE)
	@$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),30) $(if $(JSON),--json "$(JSON)")

explore: setup  ## Try every interleaving of gateways, store, CA and device while two things go wrong (DISTURBANCES=3, ONLY=replays)
	@$(BIN)/python -m tests.explore.run --disturbances $(or $(DISTURBANCES),2) --only "$(ONLY)"

rolling-restarts:  ## Of these, restart gateways behind HAProxy alone (ROUNDS=20)
	@$(MAKE) under-load ONLY="and restarted"

install-check: setup openssl  ## Install the wheel with pipx, all libraries from the package index, and enrol by openssl
	@INSTALL_FROM_INDEX=1 $(BIN)/python -m pytest -q tests/integration/test_installed.py

deploy-check: deploy-tools haproxy prometheus  ## Check chart, compose file and bill of materials by the tools of Helm, Kubernetes and CycloneDX
	$(BIN)/python -m pytest -q tests/deploy/check_chart.py tests/deploy/check_compose.py tests/deploy/check_sbom.py

lint-each:  ## Run the tests with every certificate and CRL linted that is made in them, not one of each shape
	@$(MAKE) test PYTEST_ARGS=--lint-each

clean:  ## Remove .venv, caches and build results
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
