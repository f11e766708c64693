# Needs make and Python 3.11 or newer, nothing else. Everything is installed into .venv/ and .tox/ here.

VENV := .venv
TOX := $(VENV)/bin/tox run
SOURCES := $(shell find src alembic -type f -not -path '*/__pycache__/*' 2>/dev/null)

# The first Python that runs, is new enough, and can make an environment. (A name alone proves nothing: it may be a shim.)
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.PHONY: help demo test torture lint types docs bench peers clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    map a trait over real workers, and check the log'
	@echo 'make test    everything that must hold: style, types, tests against the wheel, the wheel elsewhere, documentation'
	@echo 'make torture kill servers, workers and PostgreSQL for minutes, break disks and wires, and count; GNEXEC_TORTURE=rounds'
	@echo 'make lint    style only            make types   types only'
	@echo 'make docs    into build/docs     make bench   measure this machine'
	@echo 'make peers   the same tasks through gnexec and through other queues (installs them)'
	@echo 'make clean   remove what make made'

demo: $(VENV)/.gnexec
	$(VENV)/bin/gnexec demo

bench: $(VENV)/.gnexec
	$(VENV)/bin/gnexec bench

peers: $(VENV)/.peers
	$(VENV)/bin/python -m bench.peers

test: $(VENV)/.tox
	$(TOX)

torture: $(VENV)/.tox
	$(TOX) -e torture

lint types: $(VENV)/.tox
	$(TOX) -e $@

docs: $(VENV)/.tox
	$(TOX) -e docs -- build/docs
	@echo 'Open build/docs/index.html'

clean:
	rm -rf $(VENV) .tox dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache demo-out
	find src tests alembic bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { \
		echo 'No Python 3.11 or newer with the venv module was found.' >&2; \
		echo 'On Debian or Ubuntu: apt-get install python3-venv. Or name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Creating $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv --clear $(VENV)

# Stamps: written last, so that what was interrupted is done again.
$(VENV)/.gnexec: $(VENV)/bin/python pyproject.toml README.md LICENSE $(SOURCES)
	@echo 'Installing gnexec into $(VENV)'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check .
	@touch $@

$(VENV)/.peers: $(VENV)/.gnexec
	@echo 'Installing what gnexec is compared with into $(VENV)'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '.[peers]'
	@touch $@

$(VENV)/.tox: $(VENV)/bin/python tox.ini
	@echo 'Installing tox into $(VENV)'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'tox>=4.30'
	@touch $@
