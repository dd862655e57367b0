# Every target sets up all it needs. Works with GNU Make 3.81 (the one macOS ships).
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: demo test lint types parity golden bench check clean

demo: $(VENV)/.installed
	$(PYTHON) tests/demo.py

test: $(VENV)/.dev
	$(PYTHON) -m pytest -q

lint: $(VENV)/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(VENV)/.dev
	$(PYTHON) -m mypy

# Full-size models against transformers on the same weights: installs torch (large).
parity: $(VENV)/.parity
	$(PYTHON) -m pytest -q -s -m parity

# Write the stored references anew, from transformers.
golden: $(VENV)/.parity
	$(PYTHON) tests/reference.py

bench: $(VENV)/.installed
	$(VENV)/bin/mlxclap bench

check: lint types test

clean:
	rm -rf $(VENV)

# A stamp written last: a virtual environment that was left half made is made again.
$(VENV)/.made:
	@rm -rf $(VENV)
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --seed --python '>=3.11' $(VENV); \
	elif python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		python3 -m venv $(VENV) || { echo "On Debian or Ubuntu: apt install python3-venv, and run make again."; exit 1; }; \
	else \
		echo "mlx-clap needs Python 3.11 or newer (macOS ships 3.9). Install uv, which brings its own:"; \
		echo "    curl -LsSf https://astral.sh/uv/install.sh | sh"; \
		echo "or: brew install python@3.12, and run make again."; \
		exit 1; \
	fi
	@# Dependency groups need pip 25.1.
	@$(PYTHON) -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	$(PYTHON) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.installed
	$(PYTHON) -m pip install --quiet --group dev
	@touch $@

$(VENV)/.parity: pyproject.toml | $(VENV)/.dev
	$(PYTHON) -m pip install --quiet --group parity
	@touch $@
