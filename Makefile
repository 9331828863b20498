# Every target makes .venv when it is missing, and doing it twice does nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
TEX := texlive-latex-base texlive-latex-recommended texlive-publishers texlive-fonts-recommended latexmk

.PHONY: reproduce sweep demo test soak format lock lab readme docs bench gpu-bars gpu-wheels clean latex browser slurm triton

# Two runs at a time: faster on two cores than each run on both.
reproduce: $(VENV)/.ready latex
	$(BIN)/reproduce run params/embedded --jobs 2
	$(BIN)/reproduce paper

# Tunes both optimizers on dev topics (about 35 minutes); its results are committed, so `reproduce` does not need it.
sweep: $(VENV)/.ready
	$(BIN)/reproduce sweep embedded --jobs 2

# The same chain in three minutes, on few pairs and topics: to see how it works. Writes runs/demo/report.html only.
demo: $(VENV)/.ready
	$(BIN)/reproduce run params/demo --jobs 2
	$(BIN)/reproduce report demo

# Notebooks and tests, in two processes of one thread each.
test: $(VENV)/.ready browser triton
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The long proofs: random kills, several processes, all configs through Modal's container program.
soak: $(VENV)/.ready browser slurm triton
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m soak

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/nbdev_export

# Opens a tutorial; the file browser on the left has the rooms, and each room's pages in reading order.
lab: $(VENV)/.ready
	$(BIN)/jupyter lab $$([ "$$(id -u)" = 0 ] && echo --allow-root) --LabApp.default_url=/lab/tree/tutorials/first_run.ipynb nbs

# New pins and hashes for what pyproject.toml asks for; with UPGRADE=--upgrade, the newest versions of all.
lock: $(VENV)/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/lock.py $(UPGRADE)

readme: $(VENV)/.ready
	$(BIN)/python tools/readme.py

# The site, in docs/_build/html: all notebooks, the reference, the scoreboards. It needs no network to be read.
docs: $(VENV)/.ready
	$(BIN)/python tools/docs.py

# Both sides of every speed that the table of speeds shows (about 25 minutes on two idle cores).
# DL2019=FOLDER: TREC DL 2019's passages, topics, judgments and candidates as a collection
#   (nbs/data/20_collection.ipynb says in which files); without it, the embedded collection's texts.
# ONLY: some of bench_lion, bench_train, bench_rerank, bench_metrics, bench_kit, bench_growth.
bench: $(VENV)/.ready
	BENCH='$(DL2019)' $(BIN)/python tools/bench.py $(ONLY)

# Speeds on this machine's NVIDIA GPU, in at most nine minutes, without a network and without `.venv`:
# torch, transformers and sentence-transformers of the machine will do. Plans read the file (nbs/speed/40_gpu_bars.ipynb).
# CSV=FILE: another file than paper/performance/gpu/bars.csv
gpu-bars:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) tools/gpu_bars.py $(if $(CSV),--csv $(CSV))

# The pure wheels that such a machine lacks, into .gpu-wheels/ (less than 1 MiB): take the folder there.
gpu-wheels:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation py --abi none --platform any -d .gpu-wheels -r tools/gpu_wheels.txt

clean:
	rm -rf $(VENV) .gpu-wheels cache docs/_build paper/build paper/main.pdf *.egg-info _proc
	@echo "kept: runs/ (delete it yourself to train everything again)"

$(VENV)/.ready: requirements.lock requirements-cuda.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reproduce-kit needs Python 3.11 or newer; say: make PYTHON=python3.11")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo 'making $(VENV) (a few minutes, once)'; $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python tools/install.py
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

# With apt and root (or sudo), LaTeX and a browser are installed. Otherwise `reproduce paper` says what to install, and the tests that need a browser are skipped.
# $(1): a test that it is there, $(2): its name, $(3): the packages
define apt
	@if ! { $(1); }; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then as=; \
	  elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then as='sudo -n'; \
	  else echo '$(2) is missing and cannot be installed from here; going on without'; exit 0; fi; \
	  echo 'installing $(2) (about a minute): $(3)'; \
	  { $$as apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$as apt-get install -y -qq --no-install-recommends $(3); } >/tmp/reproduce-kit-apt.log 2>&1 \
	    || echo 'installing $(2) failed (see /tmp/reproduce-kit-apt.log); going on without'; fi
endef

latex:
	$(call apt,command -v latexmk >/dev/null && command -v pdflatex >/dev/null && kpsewhich IEEEtran.cls booktabs.sty longtable.sty >/dev/null,LaTeX,$(TEX))

# Triton's interpreter for the tests of its kernel; the CUDA build of torch brings a Triton of its own.
triton: $(VENV)/.ready
	@$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("triton") is None)' || $(BIN)/python tools/install.py triton || echo 'no Triton for this machine; the tests of its kernel are skipped'

browser:
	$(call apt,command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null,Chromium,chromium)

# A SLURM cluster of one node, which a test of `make soak` starts on this machine's loopback and ends.
slurm:
	$(call apt,PATH=$$PATH:/usr/sbin; command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null && command -v munged >/dev/null,SLURM,slurmctld slurmd slurm-client munge)
