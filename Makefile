# Every target that needs it first makes .venv from requirements.lock, if it is missing or stale.
PYTHON ?= python3
# Whether it is given with the command: a .venv of another Python, whose installation failed, then makes way.
GIVEN = $(filter command,$(origin PYTHON))
SCALE ?= mini
SEEDS ?= 1
RESULTS ?=
ARGS ?=
# Tests at a time: with two, those that start Ray leave a fifth of two processors idle.
JOBS ?= 3

# In a further worktree, whose .git is a file, a .venv that is a link is the first one's, which keeps it up to date: here
# these files are newer, as just checked out.
NEWER = $(if $(shell test -h .venv && test -f .git && echo link),,requirements.lock pyproject.toml)

RUN = .venv/bin/mm1-lab
RESULTS_OPTION = $(if $(RESULTS),--results '$(RESULTS)')
SWEEPS = $(sort $(patsubst sweeps/%.yaml,%,$(wildcard sweeps/*.yaml)))

.PHONY: help install check-scale sweep-all lr-law figures report dashboard test soak check bench bench-gpu docs
.DELETE_ON_ERROR:

help:
	@echo 'make install         install into .venv, once; other targets do it when needed'
	@echo 'make sweep-NAME      run what is missing of sweeps/NAME.yaml:$(foreach s,$(SWEEPS), sweep-$(subst _,-,$(s)))'
	@echo 'make sweep-all       run all of them'
	@echo 'make check-scale     check whether results at a scale can be trusted: encoder, decoder, data, and the trained base'
	@echo 'make lr-law          search for the best learning rate of each size and fit a law to them'
	@echo 'make figures         redraw tables and figures from the results'
	@echo 'make report          the same, and put all of it into one HTML file: RESULTS/report.html'
	@echo 'make dashboard       browse the runs (MLflow, on this machine only)'
	@echo 'make test            run the tests, JOBS=3 at a time'
	@echo 'make soak            longer tests, hours: every sweep at smoke, kills at random moments, long simulations; FUZZ_TIMES=10'
	@echo 'make check           check lint, format, types and the direction of imports'
	@echo 'make docs            build the documentation as a site in site/; ARGS=serve shows it while you edit'
	@echo 'make bench           measure speed beside references: twenty minutes, with nothing else running; ARGS=--quick'
	@echo 'make bench-gpu       measure training and evaluation on one GPU beside references; ARGS=--quick'
	@echo
	@echo 'Variables: SCALE=mini|smoke|lab  SEEDS=3 (three of them) or 5,6,7  RESULTS=results/local  ARGS="--set train.steps=200"'
	@echo 'Example:   make sweep-data-mix SCALE=smoke'

install: .venv/.stamp
	@[ -z '$(GIVEN)' ] || [ "$$(.venv/bin/python -V)" = "$$($(PYTHON) -V)" ] || \
		echo ".venv has $$(.venv/bin/python -V); to install with $$($(PYTHON) -V), delete it and repeat this"

# Written last, so that an interrupted installation is taken up again. pip would compile 22,000 files one after another;
# compileall reports those that are not for this Python as a failure, on 3.14 warns of packages' code, and leaves out hundreds of
# models, of which few are used.
.venv/.stamp: $(NEWER)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and "Python 3.11 to 3.14 is needed: make PYTHON=python3.12 …")'
	@echo 'Installing into .venv, once: this takes minutes.'
	@$(PYTHON) -m venv $(if $(GIVEN),--clear) .venv || \
		{ echo 'make: delete .venv, perhaps a link to nothing, and repeat this' >&2; exit 1; }
	@echo '1 of 2: torch, Ray, MLflow and what they need: 2.3 GB with the CPU build of torch, 5.9 GB with that for CUDA …'
	@.venv/bin/python -m pip install --quiet --no-compile --requirement requirements.lock
	@PYTHONWARNINGS=ignore .venv/bin/python -m compileall -qq -j 0 -x '/tests/|/transformers/models/' .venv/lib || true
	@echo '2 of 2: mm1-lab …'
	@.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

sweep-%: .venv/.stamp
	$(RUN) run sweeps/$(subst -,_,$*).yaml --scale $(SCALE) --seeds $(SEEDS) $(RESULTS_OPTION) $(ARGS)

check-scale: .venv/.stamp
	$(RUN) $@ $(SCALE) --seeds $(SEEDS) $(RESULTS_OPTION) $(ARGS)

lr-law: .venv/.stamp
	$(RUN) fit-lr-law --scale $(SCALE) --seeds $(SEEDS) $(RESULTS_OPTION) $(ARGS)

sweep-all: $(foreach s,$(SWEEPS),sweep-$(subst _,-,$(s)))

figures report dashboard: .venv/.stamp
	$(RUN) $@ $(RESULTS_OPTION) $(ARGS)

test: .venv/.stamp
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) --dist loadscope $(ARGS)

soak: .venv/.stamp
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m soak $(ARGS)

check: .venv/.stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/.stamp
	.venv/bin/python -m benchmarks.run $(ARGS)

bench-gpu: .venv/.stamp
	.venv/bin/python -m benchmarks.gpu $(ARGS)

# In an environment of its own: the pages are read, nothing of the lab is run.
docs:
	@test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/pip install --quiet \
		mkdocs-jupyter mkdocs-material 'mkdocstrings[python]'; }
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs $(or $(ARGS),build --strict)
