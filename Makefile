# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test check setup clean

demo: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/foedus demo

test: $(STAMP)
	scripts/check

check: test

setup: $(STAMP)

# uv reads [tool.uv] of this project only when run in its folder.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.12.20,<0.13"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[demo,ray,learn2learn,onnx,operations,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo-data runs
