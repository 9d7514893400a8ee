# Everything runs in .venv, made from hashed lock files. Needs Python 3.11 or newer (with venv and pip) and make.
PYTHON ?= python3
BIN := .venv/bin
UV := VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv
WORKERS ?= 3
LOCK := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

.PHONY: demo dev test pairs check lint fix coverage bench live live-openstack live-s3 lock docs

demo: .venv/run ## the main job, from an image around five providers and home
	$(BIN)/python -m api.demo $(if $(IMAGE),--image $(IMAGE))

dev: .venv/run ## the whole system, here, until Ctrl-C
	$(BIN)/fedctl dev

test: .venv/dev ## all tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --durations=20 --durations-min=10

pairs: .venv/dev ## moves over all 20 ordered pairs of kinds of provider, cold and warm, and broken at every step
	$(BIN)/python -m pytest -q -m long --durations=0 --durations-min=5 tests/e2e

check: lint test ## what CI runs

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: .venv/dev ## branch coverage of controlplane and workflows
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --cov --cov-report=
	$(BIN)/coverage report --include='controlplane/*,workflows/*' --skip-covered --fail-under=90

bench: .venv/dev ## what is promised in figures, measured; WHAT=overhead for one
	$(BIN)/python -m tests.bench $(WHAT)

live: .venv/dev ## the contract suite and moves at a real site, named by LIVE_* (docs/live.md); KIND=xcpng
	$(BIN)/python -m tests.live $(KIND)

live-openstack: .venv/dev ## the same at a lab's OpenStack; OPENSTACK_LAB=the folder with its clouds.yaml
	$(BIN)/python -m tests.live openstack $(if $(OPENSTACK_LAB),--lab "$(OPENSTACK_LAB)")

live-s3: .venv/dev ## the vault at a real S3 server: SERVER=ceph or seaweedfs starts one, or LIVE_S3 names it (docs/live.md)
	LIVE_S3="$(or $(SERVER),$(LIVE_S3))" $(BIN)/python -m pytest -q -m live -rs -n 0 tests/live/test_s3.py tests/live/test_s3_replica.py tests/live/test_s3_server.py

docs: .venv/dev ## the pages that are made from cards and checks
	$(BIN)/python -m drivers.cards
	$(BIN)/python -m api.checklist

lock: .venv/dev ## new versions of everything
	echo uv | $(LOCK) - -o requirements-uv.lock
	$(LOCK) --all-extras --group build pyproject.toml -o requirements.lock
	$(LOCK) --all-extras --group build --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	printf 'moto[s3]\nflask\nflask-cors\n' | $(LOCK) - -o requirements-s3.lock

.venv/uv: requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fedctl needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock
	touch $@

.venv/run: .venv/uv requirements.lock pyproject.toml
	$(UV) pip install -q --compile-bytecode --require-hashes -r requirements.lock
	$(UV) pip install -q --no-deps --no-build-isolation -e .
	touch $@

.venv/dev: .venv/run requirements-dev.lock requirements-s3.lock
	$(UV) pip install -q --compile-bytecode --require-hashes -r requirements-dev.lock
	-$(BIN)/python -m tests.unit.vault.s3server # without it the tests that need an S3 server are skipped
	touch $@
