# The course's commands. `make` lists them; `make book` and `make test` need nothing but Python and make.
#
# Variables, given on the command line or in the environment:
#   PYTHON           the interpreter to create .venv with (3.11 or newer; found by itself if not given)
#   COURSE_ENV       an existing environment (its folder, or its python) whose packages, torch above all,
#                    are to be used; nothing is installed into it
#   COURSE_DATASET   digits (default), mnist or fashion-mnist
#   COURSE_DATA_DIR  the folder of the data set's files, where it needs any
#   COURSE_DEVICE    cpu or cuda (default: cuda where there is one)
#   JOBS             how many notebooks or tests run at a time (default 2)
#   VARIANT          the name that `make assignments` draws constants and questions from (default published)
#   MASTERS          the folder of the problem sets' masters, where it is not this repository's
#   ASSIGNMENTS_URL  the address where their kits will be published, if they will
#   PORT             where `make serve` listens (default 8000)

JOBS ?= 2
PORT ?= 8000
VARIANT ?= published
export JOBS
DATASET := $(or $(COURSE_DATASET),digits)

RUN := .venv/bin/python
INSTALLED := .venv/installed.json
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

# .venv remembers which environment it was made to reuse.
COURSE_ENV ?= $(shell sed -nE 's/.*"interpreter": "([^"]*)", "reuse": true.*/\1/p' $(INSTALLED) 2>/dev/null)
REUSED := $(COURSE_ENV)

ifneq (,$(REUSED))
  # Another environment than the one .venv was made with means making .venv again.
  INTERPRETER := $(abspath $(firstword $(wildcard $(REUSED)/bin/python $(REUSED)/bin/python3) $(REUSED)))
  ifeq (,$(findstring "$(INTERPRETER)",$(shell cat $(INSTALLED) 2>/dev/null)))
    .PHONY: $(INSTALLED)
  endif
else
  INTERPRETER = $(or $(PYTHON),$(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$python $(NEW_ENOUGH) 2>/dev/null && echo $$python && break; done),python3)
endif

.PHONY: help book notebooks assignments test serve lint clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

book: $(INSTALLED)  ## execute the notebooks, build the site and the wheel, print where they are
	@$(RUN) -m pipeline.book

notebooks: $(INSTALLED)  ## only execute the notebooks whose code, library or data have changed
	@$(RUN) -m pipeline.execute

assignments: $(INSTALLED)  ## the problem sets: what to hand out, to grade with and to keep (VARIANT=name)
	@$(RUN) -m pipeline.hand_out --variant $(VARIANT) --jobs $(JOBS) \
	  $(if $(MASTERS),--masters "$(MASTERS)") $(if $(ASSIGNMENTS_URL),--url "$(ASSIGNMENTS_URL)")

test: book  ## the unit tests, the tests of the site, and every notebook executed again and compared
	@$(RUN) -m pytest tests _build/executed/$(DATASET) -n $(JOBS) --dist loadscope --nbval --nbval-current-env

serve: book  ## show the book on this machine
	@echo "The book is at http://localhost:$(PORT)/ (Ctrl-C to stop)"
	@$(RUN) -m http.server --bind localhost --directory _build/html $(PORT)

lint: $(INSTALLED)  ## the style and type checks
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

clean:  ## remove everything generated, except the environment
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache

# Written last by environment.py, so an interrupted installation leaves none.
$(INSTALLED): constraints.txt pyproject.toml pipeline/environment.py
	@$(INTERPRETER) $(NEW_ENOUGH) || { \
	  echo "The course needs Python 3.11 or newer, but '$(INTERPRETER)' is $$($(INTERPRETER) --version 2>&1)."; \
	  echo "Install a newer one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; } >&2
	@$(INTERPRETER) pipeline/environment.py $(if $(REUSED),--reuse)
