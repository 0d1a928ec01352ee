# What a newcomer, a contributor and CI run. Every target sets up what it needs first; the second time that
# takes no time. Nothing is needed beforehand but Python 3.10-3.14, gcc and make.

.DEFAULT_GOAL := help
.PHONY: help setup core demo test chaos soak bench bench-quick install-extension setup-bench setup-pgbouncer setup-old-library setup-node setup-pg-cron test-matrix lint audit format wheel clean asan valgrind fuzz

BIN := .venv/bin
PYX := $(wildcard src/pgdurable/*.pyx src/pgdurable/*/*.pyx src/pgdurable/*.pxd src/pgdurable/*/*.pxd src/pgdurable/*/*.pxi)

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv, install pgdurable into it, build the core
	@scripts/setup.sh

core: setup  ## The same: rebuilds the core in place when its source changed

demo: setup  ## The main job: a shop whose orders survive kill -9 of worker and server
	@$(BIN)/python -m examples.orders

# Two files at a time: most tests wait for something most of the time.
PARALLEL := -n 2 --dist loadfile
test: ARGS = $(PARALLEL)
test: setup setup-pgbouncer setup-old-library setup-node setup-pg-cron  ## All tests, on an embedded PostgreSQL or on PGDURABLE_TEST_DSN; ARGS="-k name" to choose
	@$(BIN)/python -m pytest $(ARGS) || { status=$$?; \
	    [ "$(ARGS)" = "$(PARALLEL)" ] && [ $$status = 1 ] || exit $$status; \
	    echo; echo 'What failed above runs once more, one test at a time: a limit of time may have met a busy machine.'; \
	    $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-matrix: setup setup-pgbouncer setup-old-library setup-node setup-pg-cron  ## All tests on every PostgreSQL that is found here
	@$(BIN)/python scripts/test_matrix.py $(ARGS)

chaos: setup  ## Ten minutes of faults, checked; the model; mutations. SECONDS=60 SEED=7; ARGS="--without disk"
	@PYTHONPATH=tests $(BIN)/python -m chaos --results docs/reliability $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)
	@$(BIN)/python docs/build_reliability.py

setup-node:
	@scripts/setup_node.sh

setup-pg-cron:
	@scripts/setup_pg_cron.sh

setup-pgbouncer:
	@scripts/setup_pgbouncer.sh

setup-old-library: setup
	@scripts/setup_old_library.sh

bench: setup-bench setup-pgbouncer  ## All benchmarks, a quarter of an hour; figures and pictures go to docs/benchmarks
	@$(BIN)/python -m benchmarks.full $(ARGS)

bench-quick: setup-bench  ## The main table of the benchmarks, a minute
	@$(BIN)/python -m benchmarks.quick $(ARGS)

soak: setup-bench  ## An hour at half the peak: memory, descriptors, connections, tables. SECONDS=600
	@$(BIN)/python -m benchmarks.soak --results docs/reliability $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

setup-bench: setup
	@scripts/setup_bench.sh

asan: setup  ## The core's tests with AddressSanitizer and UBSan (a build of its own); ARGS="path" to choose
	@scripts/sanitize.sh asan $(ARGS)

valgrind: setup  ## The core's tests under valgrind (a build of its own); minutes
	@scripts/sanitize.sh valgrind $(ARGS)

fuzz: setup  ## Spoil a server's answers for a minute, guided by the code they reach; ARGS="600" for ten
	@scripts/sanitize.sh fuzz $(ARGS)

lint: setup  ## Every check CI makes besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint $(PYX)
	@test -f src/pgdurable/_core.pyi || { echo 'src/pgdurable/_core.pyi is missing'; exit 1; }
	$(BIN)/python scripts/check_sql.py
	$(BIN)/python -m mypy.stubtest pgdurable._core pgdurable._runtime._cycle pgdurable._engine._crew

install-extension: setup  ## What `create extension pgdurable` needs, by PGXS. PG_CONFIG=, DESTDIR=, SCHEMA=
	@$(BIN)/pgdurable extension --out build/extension $(if $(SCHEMA),--schema $(SCHEMA))
	@$(MAKE) --no-print-directory -C build/extension install PG_CONFIG=$(or $(PG_CONFIG),pg_config) DESTDIR=$(DESTDIR)

audit:  ## Are there known vulnerabilities in what pgdurable installs? Needs PyPI's advisory database
	@scripts/audit.sh

format: setup  ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup  ## Source distribution and wheel with libpq inside, checked and tried out, in dist/
	@scripts/wheel.sh

clean:  ## Remove .venv and everything built
	rm -rf .venv .setup.lock .test-servers build dist wheelhouse src/*.egg-info src/pgdurable/*.so src/pgdurable/*/*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src tests examples benchmarks scripts -name __pycache__ -type d -exec rm -rf {} +
