# The newest Python that really starts (a version manager's shim may not); PYTHON=... overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
ARGS ?=
# Each worker of the tests, and each process that a test starts, would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint format soak soak-year soak-chart mutations bench fresh deploy-check object field migration docs \
	permission-set requirements clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready ## everything on this machine; ARGS=--keep leaves it running
	@$(BIN)/python -m sync demo $(ARGS)

# At most five minutes on two cores. What has many combinations is tried in a subset in which each value occurs, and
# properties on a fifth of their examples (tests/support/soak.py): `make soak` tries the whole product.
test: .venv/ready ## the whole suite, or ARGS=tests/salesforce/test_soql.py; TEST_DATABASE_URL names another server
	$(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready ## what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The whole suite with SOAK in the environment: all combinations of faults, kills and ways to read, all examples of
# properties, many more random histories, and planted bugs that must be found.
soak: .venv/ready ## tens of minutes; SOAK=500 for a night, ARGS=tests/replication/test_model.py for the random histories alone
	SOAK=$(or $(SOAK),100) $(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

# Not a part of `make test`, which lives two days of it.
soak-year: .venv/ready ## a year of events in half an hour, all checked at its end; ARGS="--days 20" is a minute or two
	$(BIN)/python -m tests.soak_year $(ARGS)

soak-chart: .venv/bench ## sizes, memory and lag of the last soak-year; ARGS=--publish replaces the chart in docs/benchmarks
	$(BIN)/python -m tests.soak_year --chart $(ARGS)

# Plants the bugs of tests/mutations.py one at a time in a copy of the working tree, and runs the tests that must fail.
mutations: .venv/ready ## some ten minutes; ARGS=cursor plants those alone whose name or module contains the word
	$(BIN)/python -m tests.mutate $(ARGS)

bench: .venv/bench ## rows/s, memory and ratios, against what this machine allows; ARGS="--contacts 10000" is quick
	$(BIN)/python -m tests.benchmarks $(ARGS)

fresh: .venv/ready ## how fresh the tables are, and what a day of passes costs: ten minutes; ARGS="--edits 0" is one
	$(BIN)/python -m tests.freshness $(ARGS)

# Not a part of `make test`: it installs a virtual environment, and takes three minutes.
deploy-check: .venv/ready ## build, release, worker, one-offs, deploy and rollback as on Heroku; needs PgBouncer
	@$(BIN)/python -m tests.deploy_check $(ARGS)

object: .venv/ready ## a new object and its migration: NAME=Opportunity; of the org in the settings, or DESCRIBE=file.json
	@$(BIN)/python -m migrations.declare object "$(NAME)" $(if $(DESCRIBE),--describe "$(DESCRIBE)")

field: .venv/ready ## a column of its own for a field: OBJECT=Contact NAME=Customer_Number__c [INDEX=1] [DESCRIBE=file.json]
	@$(BIN)/python -m migrations.declare field "$(OBJECT)" "$(NAME)" $(if $(INDEX),--index) $(if $(DESCRIBE),--describe "$(DESCRIBE)")

migration: .venv/ready ## after an edit in sync/catalogue/objects or sync/postgres: make migration MESSAGE="contact gets a nickname"
	$(BIN)/python -m migrations.autogenerate "$(MESSAGE)"

docs: .venv/ready ## write docs/data-dictionary.md from the comments of a migrated database
	@$(BIN)/python -m migrations.dictionary

# `make migration` writes it, too: a field of the catalogue needs both.
permission-set: .venv/ready ## the integration user's permission set, from the catalogue; ARGS="--help" writes it for one org
	@$(BIN)/python -m migrations.permissions $(ARGS)

requirements: ## pin anew; needs uv
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url $(ARGS) -o requirements.txt
	uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url $(ARGS) -c requirements.txt -o requirements-dev.txt
	uv pip compile -q pyproject.toml --extra bench --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url $(ARGS) -c requirements-dev.txt -o requirements-bench.txt

clean: ## remove the virtual environment and all caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage

.venv/ready: requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it, or give PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

.venv/bench: .venv/ready requirements-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@
