PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYX = $(wildcard src/fastlayers/*.pyx)
CYTHONED = $(PYX:.pyx=.c)
SOURCES = pyproject.toml setup.py MANIFEST.in README.md LICENSE \
	$(PYX) $(filter-out $(CYTHONED),$(wildcard src/fastlayers/*.c)) $(wildcard src/fastlayers/*.h)

.PHONY: test lint bench demo clean

test: $(VENV)/.ready
	$(BIN)/python -m pytest --numprocesses=2 $(PYTESTFLAGS)

lint: $(VENV)/.ready-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src
	$(BIN)/stubtest --allowlist .ci/stubtest-allowlist.txt fastlayers._core fastlayers._archive

# make bench BENCHFLAGS='--closure graph.json' for a real closure; docs/benchmarks.md says more.
bench: $(VENV)/.ready
	$(COMPILE)
	$(BIN)/python -m bench $(BENCHFLAGS)

# Byte code, which pip writes for what it installs but not for what it links to, and Python not where
# PYTHONDONTWRITEBYTECODE is set.
COMPILE = $(BIN)/python -m compileall -q src/fastlayers

# Everything in a virtual environment of its own; made anew when what it is made of changes.
$(VENV)/.ready: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group test --editable .
	$(COMPILE)
	touch $@

$(VENV)/.ready-lint: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

# A virtual environment, and an image of it. The package is installed as its users have it, not as a link to here.
DEMO = .demo
IMAGE = fastlayers-demo:1

demo: $(DEMO)/.ready
	$(DEMO)/venv/bin/fastlayers build venv:$(DEMO)/venv --to docker-archive:$(DEMO)/fastlayers-demo.tar:$(IMAGE) \
		--cmd 'python -c "import numpy; print(numpy.__version__)"'
	@echo
	@echo 'The image is in $(DEMO)/fastlayers-demo.tar; it prints the version of its numpy:'
	@echo '  docker load -i $(DEMO)/fastlayers-demo.tar && docker run --rm $(IMAGE)'
	@echo '  podman load -i $(DEMO)/fastlayers-demo.tar && podman run --rm $(IMAGE)'

$(DEMO)/.ready: $(SOURCES) $(shell find src/fastlayers -name '*.py' -o -name '*.pyi')
	$(PYTHON) -m venv --clear $(DEMO)/venv
	$(DEMO)/venv/bin/python -m pip install --quiet .
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist src/fastlayers.egg-info $(CYTHONED) $(PYX:.pyx=.*.so)
