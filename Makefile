# Everything happens in a virtual environment of the project's own; PYTHON picks the interpreter (3.10 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv, which resolves for all interpreters and platforms at once; it is not needed to install.
TOOLS := .venv-tools
UV := $(TOOLS)/bin/uv

# Some containers turn off Python's cache of compiled files. Without it, importing coqui and gradio takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-ui test-latest lint lock package clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt \
	    --editable '.[demo,test,build,ui]'
	touch $@

$(UV):
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv

demo: $(VENV)/.installed
	$(BIN)/xtts-extend demo --output demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# The whole way in a browser (Debian's package chromium), which also makes the pictures of docs/page.md.
test-ui: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt playwright
	XTTS_EXTEND_SCREENSHOTS=docs/page $(BIN)/python -m pytest -m slow tests/ui

# The newest releases of everything but torch, without the lock and without our bounds: what will break next?
test-latest: $(UV)
	$(PYTHON) .ci/latest.py $(UV)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The newest versions within the bounds of setup.cfg, one file for every supported Python and platform.
lock: $(UV)
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras \
	    --custom-compile-command "make lock" --output-file constraints.txt setup.cfg
	@echo "Now set TESTED in xtts_extend/environment.py to these versions and run the tests."

package: $(VENV)/.installed
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) $(TOOLS) .venv-latest demo build dist *.egg-info
