# Two commands matter: `make run` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test screenshots lint types bench traceability sbom install frontend clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: install frontend ## the whole system with synthetic patients, until Ctrl-C
	$(BIN)/firstread up --demo

test: install frontend ## install what the tests need and run all of them
	@sh tests/install-tools.sh
	@# whole systems first, two at a time; the rest waits more than it computes
	@failed=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/e2e $(PYTEST_ARGS) || failed=1; \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/integration tests/unit $(PYTEST_ARGS) || failed=1; \
	exit $$failed

screenshots: install frontend ## take the pictures of docs/tour.md from the running system
	FIRSTREAD_SCREENSHOTS=$(CURDIR)/docs/screenshots $(BIN)/python -m pytest -q -n 0 tests/e2e/test_reading_room.py

lint: install ## ruff and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install ## mypy, strict
	$(BIN)/mypy

bench: ## list the benchmarks (make bench-NAME)
	@ls tests/bench/bench_*.py 2>/dev/null | sed 's/.*bench_\(.*\)\.py/make bench-\1/' || true

bench-%: install ## run one benchmark
	$(BIN)/python tests/bench/bench_$*.py

traceability: install ## write docs/traceability.md anew from hazards, requirements and tests
	$(BIN)/firstread release matrix

sbom: install ## write the bill of materials, var/sbom.cdx.json (CycloneDX)
	$(BIN)/firstread release sbom --out var/sbom.cdx.json

install: $(VENV)/.installed
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

frontend: install dashboard/static/build/.built
dashboard/static/build/.built: dashboard/viewer/package-lock.json $(shell find dashboard/viewer/src -type f) $(wildcard dashboard/viewer/*.json dashboard/viewer/*.js) dashboard/build-frontend.sh
	sh dashboard/build-frontend.sh $(CURDIR)/$(BIN)/python
	@touch $@

clean: ## remove what was installed and built; keeps var/, the data
	rm -rf $(VENV) dashboard/viewer/node_modules dashboard/static/build
