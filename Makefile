# Two commands do everything: `make run` shows the main job, `make test` checks all there is but the
# packages, which `make deb` builds and `make test-package` installs in a Debian of their own.
# The rest is for developers; see CONTRIBUTING.md.

PYTHON ?=
BIN = .venv/bin

.PHONY: run test test-package deb check manual bench bench-quick soak steady audit clean

run:
	@sh tools/setup.sh '$(PYTHON)' demo
	@$(BIN)/python tools/demo.py

test:
	@sh tools/setup.sh '$(PYTHON)' dev
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n 3 --dist loadfile
	$(BIN)/python -m tests.debian_drivers

# The Debian packages, in dist/deb.
deb:
	@sh tools/setup.sh '$(PYTHON)' package
	bash tools/deb.sh

# Packages, wheel and image, each where it would be used; takes root and some minutes.
test-package:
	@sh tools/setup.sh '$(PYTHON)' dev
	@sh tools/setup.sh '$(PYTHON)' package
	$(BIN)/python -m pytest tests_package

# What needs no server: style, types, the direction of imports.
check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Render man pages, docs/options.md and the sample configuration from the option table.
manual:
	$(BIN)/python -m perdition.config.manual
	$(BIN)/python -m perdition.ops.pages

bench:
	@sh tools/setup.sh '$(PYTHON)' dev
	$(BIN)/python -m bench

# Ours and nginx: fails when one of our ratios has grown to 1.3 times what is recorded.
bench-quick:
	@sh tools/setup.sh '$(PYTHON)' dev
	$(BIN)/python -m bench --quick --check

# 200 000 logins and 50 GB: memory and descriptors have to stay as they are.
soak:
	@sh tools/setup.sh '$(PYTHON)' dev
	$(BIN)/python -m bench.soak

steady:
	@sh tools/setup.sh '$(PYTHON)' dev
	$(BIN)/python -m bench.steady

# Ask whether what is installed beside us is known to be unsafe; this goes to the network.
audit:
	@sh tools/setup.sh '$(PYTHON)' dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip_audit --local --skip-editable

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
