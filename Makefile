# `make demo` and `make test` set everything up by themselves; all that they need is Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
ORACLE ?= .venv-oracle
NEWEST ?= .venv-newest
LOWEST ?= pt,tf,onnx,test
DEVICE ?= cpu
RUN = $(VENV)/bin/python
# A process for each core, of one thread each: two threads in one process gain little on the small models of the tests.
PYTEST = -m pytest -q -n auto --maxprocesses 4 --dist worksteal
export TF_CPP_MIN_LOG_LEVEL = 3

.PHONY: demo test test-pt test-tf test-slow test-lowest test-newest check format docs docs-serve browser oracle parity bench gpu release-check clean

demo: $(VENV)/ready
	$(RUN) docs/examples/demo/demo.py

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN) $(PYTEST)

# Environments of their own, with one framework each and nothing that users can do without: what runs there, runs.
test-pt: $(VENV)-pt/ready
	OMP_NUM_THREADS=1 $(VENV)-pt/bin/python $(PYTEST)

test-tf: $(VENV)-tf/ready
	OMP_NUM_THREADS=1 $(VENV)-tf/bin/python $(PYTEST)

# The lowest versions that pyproject.toml names, and the newest that there are.
test-lowest: $(VENV)-lowest/ready
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python $(PYTEST)

test-newest: $(VENV)-latest/ready
	OMP_NUM_THREADS=1 $(VENV)-latest/bin/python $(PYTEST)

test-slow: $(VENV)/ready
	$(RUN) -m pytest -q -m slow

check: $(VENV)/ready
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m codespell_lib README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs

format: $(VENV)/ready
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

oracle: $(ORACLE)/ready $(NEWEST)/ready
	$(ORACLE)/bin/python -m pytest -q -m oracle tests/oracle
	$(NEWEST)/bin/python -m pytest -q -m oracle tests/oracle/test_newest_transformers.py

docs: $(VENV)-docs/ready
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build

docs-serve: $(VENV)-docs/ready
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs serve

# The page of docs/browser, with all that it runs, for any static web server; needs npm.
browser: $(VENV)/ready
	$(RUN) -m docs.browser.build .browser

# The package as users get it: built, installed with each extra in an environment of its own, and used.
release-check: $(VENV)-docs/ready
	rm -rf dist
	$(VENV)-docs/bin/python -m build
	$(VENV)-docs/bin/python -m twine check --strict dist/*
	PYTHON=$(PYTHON) .ci/release-check

# make parity CHECKPOINT=folder
parity: $(VENV)/ready
	$(RUN) -m pytest -q -p conversion.parity_tests.plugin --pyargs conversion.parity_tests --checkpoint "$(CHECKPOINT)"

# make bench; make bench DEVICE=cuda; make bench BENCH="--systems ours-pt hf-pt --cases vision greedy"
bench: $(VENV)/ready $(ORACLE)/ready $(NEWEST)/ready
	$(RUN) -m tests.bench.speed --device $(DEVICE) --oracle $(ORACLE)/bin/python --newest $(NEWEST)/bin/python $(or $(BENCH),--write)

# On a machine with a GPU and a Python that has PyTorch for it: make gpu PYTHON=python3
gpu:
	$(PYTHON) -m tests.bench.gpu --write

# The versions of constraints.txt; torch 2.13.0 by name, of which the plain wheel is the small CPU build.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[pt,tf,dev]"
	touch $@

$(VENV)-pt/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-pt
	$(VENV)-pt/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(VENV)-pt/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[pt,test]"
	touch $@

$(VENV)-tf/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-tf
	$(VENV)-tf/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tf,test]"
	touch $@

# uv can take the lowest versions of what is named; PyTorch comes as PyPI has it, which of old versions is the large build.
$(VENV)-lowest/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-lowest/bin/python -m uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct \
		-e ".[$(LOWEST)]"
	touch $@

$(VENV)-latest/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-latest
	$(VENV)-latest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e ".[pt,tf,onnx,test]"
	touch $@

$(VENV)-docs/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs,release]"
	touch $@

$(ORACLE)/ready: pyproject.toml
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[pt,tf,oracle]"
	touch $@

$(NEWEST)/ready:
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision transformers openvino
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[pt,test]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-pt $(VENV)-tf $(VENV)-docs $(VENV)-lowest $(VENV)-latest $(ORACLE) $(NEWEST) .bench .browser .demo .site dist .pytest_cache .mypy_cache .ruff_cache
