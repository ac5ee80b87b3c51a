# Two commands on a fresh machine with python3 (3.11 or later, with venv), make and git:
#   make demo    the main job on a simulated GPU
#   make test    the tests
VENV   ?= .venv
PYTHON ?= python3
EXTRAS ?= dev
PY      = $(VENV)/bin/python
PIP     = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-chaos test-live check format bench dashboards dashboards-sheet secrets clean

demo: $(VENV)/.runtime
	$(VENV)/bin/tokenswarm demo

test: $(VENV)/.$(EXTRAS)
	$(PY) -m pytest -m "not swapserver and not chaos"

# Databases, network and shipper die while a spool is shipped: minutes (InfluxDB 1.x and
# VictoriaMetrics from Debian, see docs/shipping.md).
test-chaos: $(VENV)/.$(EXTRAS)
	TOKENSWARM_REQUIRE_LIVE=1 $(PY) -m pytest -m chaos

# A real server that swaps models: llama-cpp-python, compiled from source (a C++ compiler, about
# 4 minutes); the model files are made by the tests.
test-live: $(VENV)/.dev,live,swap
	TOKENSWARM_REQUIRE_LIVE=1 $(PY) -m pytest -m swapserver

check: $(VENV)/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(VENV)/.dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(VENV)/.dev
	PYTHONPATH=. $(PY) -m bench hot_path
	PYTHONPATH=. $(PY) -m bench ship
	PYTHONPATH=. $(PY) -m bench report

# Random passwords and tokens for compose/, once; what is there stays. The folder is yours alone, the
# files are readable for the users of the containers.
SECRETS ?= compose/secrets
secrets:
	@umask 077; mkdir -p $(SECRETS)
	@for name in influx_password grafana_password agent_token; do \
	  test -s $(SECRETS)/$$name || openssl rand -hex 32 >$(SECRETS)/$$name; done
	@test -s $(SECRETS)/influx_token || echo "apiv3_$$(openssl rand -hex 48)" >$(SECRETS)/influx_token
	@printf '{"token": "%s", "name": "_admin"}\n' "$$(cat $(SECRETS)/influx_token)" >$(SECRETS)/influx3_admin
	@chmod 444 $(SECRETS)/*
	@echo "Grafana: user admin, password in $(SECRETS)/grafana_password"

# grafana/dashboards/*.json from store/schema.py
dashboards: $(VENV)/.dev
	$(PY) -m grafana.generate

# Their layout as pictures, with what a simulated run brings (Debian's influxdb): build/sheets/
dashboards-sheet: $(VENV)/.dev
	$(PY) -m grafana.sheet build/sheets

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.%: $(VENV)/.runtime
	$(PIP) -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
