# Each target does its whole set-up in .venv. TORCH picks the build, e.g. make test TORCH=torch==2.12.0
TORCH ?= torch==2.13.0
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/quickstart

.PHONY: quickstart test lint web fuzz clean

$(BIN)/pocketscribe: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[export]'
	touch $@

.venv/dev: $(BIN)/pocketscribe
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

quickstart: $(BIN)/pocketscribe  ## train, score, export and transcribe, on speech made here
	$(BIN)/pocketscribe run quickstart --out $(RUN)
	$(BIN)/pocketscribe export $(RUN) --to sherpa-onnx --out $(RUN)/sherpa-onnx
	@echo "An utterance of a voice that training never heard, through the sherpa-onnx runtime:"
	$(BIN)/pocketscribe transcribe $(RUN)/sherpa-onnx --json \
	  "$$(ls runs/prepared/synthetic-dev-*/audio/*.flac | head -n 1)"
	@cat docs/next_steps.txt

# The native engine, a wheel of its own; its compiler is fetched while it is built.
.venv/engine: $(BIN)/pocketscribe $(shell find engine -name '*.[ch]*' -o -name '*.py' -o -name '*.inl')
	$(BIN)/pip install --quiet ./engine
	touch $@

test: lint .venv/engine  ## everything CI checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

lint: .venv/dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

web: $(BIN)/pocketscribe  ## live captions in a browser: build/web, to be put on any static server
	$(BIN)/pip install --quiet ziglang==0.17.1
	mkdir -p build/web
	cp web/* build/web
	cp models/usm_lite.pocket build/web/model.pocket
	$(BIN)/python engine/build.py --target wasm --out build/web
	$(BIN)/python engine/build.py --target wasm-relaxed --out build/web
	rm -r build/web/objects

fuzz:  ## an hour of damaged files under sanitizers
	engine/fuzz/run.sh 3600

clean:
	rm -rf .venv runs build engine/build
