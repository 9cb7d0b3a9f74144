# `make help` lists the targets. Every step is one Python module (see its --help),
# every artefact lands in build/<name of the model>/, and a target builds what it needs and nothing twice.

MODEL ?= demo
RECIPE ?= demo
CORPUS ?= demo
SIZE ?= full
TEACHER ?= data_model/demo-ar/checkpoint.pt

# The values of these are text as it was given: no make or shell expression in them is expanded. Recipes read them
# from the environment. Those that pass options (TRAIN=, SWEEP= and others of that kind) are words of the shell.
TEXTS := MODEL RECIPE CORPUS SIZE TEACHER QUANTIZED KEEP RELEASE PRECISION RUNNER DEVICE THREADS KERNELS CUDA_GRAPH BEAM LENPEN SHAPE LIMIT \
  COMPUTE_CAPABILITY \
  MAX_TOKENS N_BEST CANDIDATES JUDGE UNKNOWN ON_ERROR FORMAT TEXT IN OUT WORKERS ADDRESS \
  FROM CHECKPOINT SRC_DICT TGT_DICT CODES LIKE LANGUAGES TEST_SRC TEST_TGT NAME
GIVEN := $(foreach name,$(TEXTS),$(if $(filter command,$(origin $(name))),$(name)))
TEXTS := $(foreach name,$(TEXTS),$(if $(filter-out undefined,$(origin $(name))),$(name)))
$(foreach name,$(TEXTS),$(eval override $(name) := $$(value $(name))))
export $(TEXTS)
# make itself forms file names from these, so only plain characters are allowed.
quoted = '$(subst ','\'',$(1))'
is_plain = $(shell case $(call quoted,$(1)) in (*[!A-Za-z0-9_./+@,=~\ -]*) ;; (*) echo yes ;; esac)
$(foreach name,TEACHER QUANTIZED PRECISION,$(if $(call is_plain,$($(name))),,$(error $(name)= is a name or a path of \
  letters, digits and ._+@,=~-, not $($(name)))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # one pip, one exporter at a time; the steps use all cores themselves
.SECONDARY:  # no graph between a checkpoint and a plan is thrown away
.SUFFIXES:

# --- Python -------------------------------------------------------------------------------------
# PYTHON= takes an interpreter that has the packages already, and then nothing is installed.
# Without it the project makes its own .venv from the first suitable Python on the PATH.
ifdef PYTHON
PY := $(PYTHON)
NEEDS =
else
PY := .venv/bin/python
NEEDS = $(1:%=.venv/%.stamp)
endif
ENV_BASE := $(call NEEDS,base)
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
FIND_PYTHON = for python in python3 python3.12 python3.11 python3.13; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && break; python=; done
# A lock names everything, with its hashes; pip takes nothing else.
INSTALL := sh requirements/install.sh $(PY)
ALONE := $(if $(shell command -v flock),flock .venv.lock)
CUDA_BUILD = .venv/lib/python*/site-packages/torch/lib/libtorch_cuda.so

.venv/base.stamp: requirements/base.lock
	@$(FIND_PYTHON); test -n "$$python" || { echo "error: no Python 3.11 to 3.13 with venv on the PATH;" \
	  "install one (Debian: apt install python3-venv) or name an interpreter with PYTHON=" >&2; exit 2; }; \
	echo "installing requirements/base.lock into .venv ($$($$python --version)); minutes at the first time"; \
	$(ALONE) sh requirements/environment.sh $$python
	@sh requirements/install.sh --if-any $(PY) requirements/cpu.lock  # the small build of PyTorch
	@$(INSTALL) $<
	@! ls $(CUDA_BUILD) >/dev/null 2>&1 || { echo "installing requirements/cuda.lock: PyTorch is a build for CUDA"; \
	  $(INSTALL) requirements/cuda.lock; }
	@touch $@

.venv/%.stamp: requirements/%.lock .venv/base.stamp
	@echo "installing $< into .venv"
	@$(INSTALL) $<
	@touch $@

.venv/train.stamp: requirements/train.lock requirements/fairseq.lock .venv/base.stamp
	@echo "installing requirements/train.lock and fairseq into .venv (fairseq is compiled; C++ compiler needed)"
	@$(INSTALL) requirements/train.lock requirements/fairseq.lock
	@touch $@

.PHONY: help doctor env lock
help:  ## list the targets
	@echo "usage: make TARGET [MODEL=name of a folder in data_model, or a path] [PYTHON=...]"; echo
	@awk -F ':.*## ' '/^[a-z0-9-]+( [a-z0-9-]+)*:.*## / {printf "  %-36s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "options of bench, eval, throughput and translate: RUNNER= PRECISION= DEVICE= THREADS= BEAM= LENPEN= KERNELS= CUDA_GRAPH= (names with commas or spaces)"
	@echo "of a one-pass model, all but bench: CANDIDATES= JUDGE="

# The doctor and the questions about models need no package, so they can speak before any is installed.
ANY_PYTHON = $(if $(PYTHON)$(wildcard .venv/bin/python),$(PY),$(FIND_PYTHON); $${python:-python3})
DOCTOR = $(ANY_PYTHON) -m trt_code.doctor
doctor:  ## one line per dependency: found, or the command that installs it
	@$(DOCTOR)

needs-%:
	@$(DOCTOR) --require $*

HAS = $(shell $(DOCTOR) --require $(1) >/dev/null 2>&1 && echo yes)

env: $(call NEEDS,base train int8 dev download)  ## make .venv with every package that needs no GPU

lock: build/lock/bin/uv  ## resolve pyproject.toml again into requirements/*.lock, with hashes
	@$(PY) requirements/lock.py $<

# --- The line: checkpoint, ONNX, patched graph, engine ------------------------------------------
# Builds print to stderr, so that stdout has only the results.
# Python reads the model's folder (doc/models.md) and returns the facts that make needs.
ASK = $(ANY_PYTHON) -m train_model.model_folder
WITHOUT_MODEL := help doctor env lock import models download corpus train distill model-stats plugins torch-ops \
  report compare test test-slow test-gpu test-ray lint audit clean needs-% .venv/% build/lock/% build/audit/%
ifneq ($(filter-out $(WITHOUT_MODEL),$(or $(MAKECMDGOALS),help)),)
ifeq ($(strip $(MODEL)),)
$(error MODEL= is empty; give a name of `make models`, or the path of a folder)
endif
ANSWER := $(shell $(ASK) --make $(call quoted,$(MODEL)) 2>&1)
# The answer has five words, and the last one is "random" or "file". An error message may have five words too.
ifneq ($(words $(ANSWER)) $(filter random file,$(word 5,$(ANSWER))),5 $(word 5,$(ANSWER)))
$(error $(or $(subst error: ,,$(ANSWER)),$(PY) cannot run train_model.model_folder))
endif
ifneq ($(filter CHECKPOINT,$(GIVEN)),)
$(error CHECKPOINT= is an option of make import: make import CHECKPOINT=$(CHECKPOINT) SRC_DICT=... TGT_DICT=... \
  CODES=... NAME=mine, and then make $(firstword $(MAKECMDGOALS)) MODEL=mine)
endif
endif
NAME_OF_MODEL := $(word 1,$(ANSWER))
# model.onnx of these families is a step of the decoder, and the encoder is written with it.
STEPS := $(filter autoregressive iterative,$(word 2,$(ANSWER)))
WEIGHTS := $(word 3,$(ANSWER))
DESCRIPTION := $(word 4,$(ANSWER))
RANDOM_WEIGHTS := $(filter random,$(word 5,$(ANSWER)))
BUILD := build/$(NAME_OF_MODEL)
# INT8: the fine-tuned network, or else the calibrated one, as in train_model/model_folder.py.
PTQ := $(BUILD)-ptq/checkpoint.pt
QAT := $(BUILD)-qat/checkpoint.pt
QUANTIZED ?= $(or $(wildcard $(QAT)),$(PTQ))
INT8 = $(if $(wildcard $(QUANTIZED)),int8)
PRECISION ?= fp32 tf32 fp16
comma := ,
EACH_PRECISION := $(subst $(comma), ,$(PRECISION))
# Graphs for our plugins, which ONNX Runtime runs too, or of standard operators alone if PLUGINS=none is given.
PATCHED_FORM := $(if $(filter none,$(PLUGINS)),.plain)
PATCHED := $(EACH_PRECISION:%=$(BUILD)/model.%$(PATCHED_FORM).onnx)
# ONNX Runtime searches in FP32 and INT8 alone. FP8 needs no graph, but the ranges of INT8.
WITH_GRAPH := $(filter-out fp8,$(EACH_PRECISION))
ORT_GRAPHS := $(if $(filter autoregressive,$(word 2,$(ANSWER))),,$(WITH_GRAPH:%=$(BUILD)/model.%.onnx)) \
  $(if $(filter fp8,$(EACH_PRECISION)),$(QUANTIZED))
# A one-pass network is written in two halves as well, both at once, and the decoder stands for both.
half_of = $(BUILD)/model$(1)$(if $(STEPS),,.decoder).onnx
SPLIT := $(call half_of,)
# The network for the runner native; an iterative one has no such form.
NATIVE := $(if $(filter iterative,$(word 2,$(ANSWER))),,$(BUILD)/model.native.safetensors)
MEASURED = $(if $(INT8),$(BUILD)/model.qdq.onnx $(call half_of,.qdq) $(NATIVE:.native.safetensors=.qdq.native.safetensors))
EXPORTER := $(wildcard train_model/models/*.py train_model/ops/*.py onnx_export/*.py onnx_export/symbols/*.py)
SURGEON := $(wildcard trt_code/onnx_surgeon.py trt_code/surgeon/*.py trt_code/surgeon/older/*.py trt_code/graph_lint.py trt_code/lint/*.py \
  onnx_export/onnx_file.py onnx_export/reference.py onnx_export/rounding.py onnx_export/symbols/*.py)

.PHONY: import models onnx onnx-split native verify patch patch-split
# An option of the import is passed on if it is given; IMPORT= passes further ones, see its --help.
given = $(if $($(1)),$(2) "$$$(1)")
import: $(ENV_BASE)  ## make a model folder of CHECKPOINT= SRC_DICT= TGT_DICT= CODES= [NAME=], or FROM=folder or archive
	@$(PY) -m train_model.import_model $(call given,FROM,--from) $(call given,CHECKPOINT,--checkpoint) \
	  $(call given,SRC_DICT,--src-dict) $(call given,TGT_DICT,--tgt-dict) $(call given,CODES,--codes) \
	  $(call given,LIKE,--like) $(call given,LANGUAGES,--languages) $(call given,TEST_SRC,--test-src) \
	  $(call given,TEST_TGT,--test-tgt) $(call given,NAME,--name) $(IMPORT)

models:  ## list the models in data_model
	@$(ASK) --list

# A model's missing parts are reported before any long work.
model-has-%:
	@$(ASK) --$* $(MODEL)

onnx: $(BUILD)/model.onnx  ## export the checkpoint of MODEL to one ONNX file

# Random weights are generated. If other weights are missing, a line says where to get them.
$(WEIGHTS): $(if $(RANDOM_WEIGHTS),$(DESCRIPTION) | $(ENV_BASE))
	@$(if $(RANDOM_WEIGHTS),rm -f $@; $(PY),$(ANY_PYTHON)) -m train_model.model_folder --checkpoint $(MODEL)

$(BUILD)/model.onnx: $(WEIGHTS) $(DESCRIPTION) $(EXPORTER) | $(ENV_BASE)
	@$(PY) -m onnx_export.export --checkpoint $< --output $@ >&2

onnx-split: $(SPLIT)  ## the same in two files, which decode no further than needed

$(BUILD)/model.decoder.onnx: $(WEIGHTS) $(DESCRIPTION) $(EXPORTER) | $(ENV_BASE)
	@$(PY) -m onnx_export.export --checkpoint $< --output $(BUILD)/model.onnx --split >&2

native: $(if $(filter int8,$(EACH_PRECISION)),$(NATIVE:.native.safetensors=.qdq.native.safetensors),$(NATIVE))  ## write the network for the runner native, which computes on the CPU in C++ (PRECISION=int8)

# The checkpoint stands first in the rule that has the recipe: only there is it $<.
NATIVE_EXPORTER := $(EXPORTER) $(wildcard trt_code/native/*.py)
EXPORT_NATIVE = $(PY) -m trt_code.native.export --checkpoint $< --output $@ >&2
$(BUILD)/model.native.safetensors: $(WEIGHTS) $(DESCRIPTION) $(NATIVE_EXPORTER) | $(ENV_BASE)
	@$(EXPORT_NATIVE)

$(BUILD)/model.qdq.native.safetensors: $(QUANTIZED) $(NATIVE_EXPORTER) | $(ENV_BASE)
	@$(EXPORT_NATIVE)

verify: $(BUILD)/model.onnx  ## compare the ONNX file with PyTorch over a grid of shapes
	@$(PY) -m onnx_export.verify --checkpoint $(WEIGHTS) --onnx $<

patch: $(PATCHED)  ## write the graphs for TensorRT (PRECISION=fp16 for one, PLUGINS=none: of standard operators)

$(BUILD)/model.qdq.onnx: $(QUANTIZED) $(EXPORTER)
	@$(PY) -m onnx_export.export --checkpoint $< --output $@ >&2

$(BUILD)/model.qdq.decoder.onnx: $(QUANTIZED) $(EXPORTER)
	@$(PY) -m onnx_export.export --checkpoint $< --output $(BUILD)/model.qdq.onnx --split >&2

$(BUILD)/model.int8.onnx: $(BUILD)/model.qdq.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $< --output $@ --precision int8 >&2

$(BUILD)/model.int8.plain.onnx: $(BUILD)/model.qdq.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $< --output $@ --precision int8 --plugins none >&2

$(BUILD)/model.%.onnx: $(BUILD)/model.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $< --output $@ --precision $* >&2

$(BUILD)/model.%.plain.onnx: $(BUILD)/model.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $< --output $@ --precision $* --plugins none >&2

patch-split: $(foreach precision,$(EACH_PRECISION),$(call half_of,.$(precision)$(PATCHED_FORM)))  ## the same for the two files of onnx-split

$(BUILD)/model.int8.decoder.onnx: $(BUILD)/model.qdq.decoder.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $(BUILD)/model.qdq.onnx --output $(BUILD)/model.int8.onnx \
	  --precision int8 --split >&2

$(BUILD)/model.%.decoder.onnx: $(BUILD)/model.decoder.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $(BUILD)/model.onnx --output $(BUILD)/model.$*.onnx \
	  --precision $* --split >&2

$(BUILD)/model.int8.plain.decoder.onnx: $(BUILD)/model.qdq.decoder.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $(BUILD)/model.qdq.onnx --output $(BUILD)/model.int8.plain.onnx \
	  --precision int8 --split --plugins none >&2

$(BUILD)/model.%.plain.decoder.onnx: $(BUILD)/model.decoder.onnx $(SURGEON)
	@$(PY) -m trt_code.onnx_surgeon --input $(BUILD)/model.onnx --output $(BUILD)/model.$*.plain.onnx \
	  --precision $* --split --plugins none >&2

# --- Data and training --------------------------------------------------------------------------
.PHONY: download corpus train distill model-stats
download: $(call NEEDS,download)  ## download the public checkpoint and its WMT16 text, for MODEL=wmt16
	@PYTHON=$(PY) ./download.sh

corpus: $(call NEEDS,train)  ## prepare CORPUS=demo for training; en-de comes from Debian packages (SIZE=core: half of them)
	@name="$${CORPUS:-demo}"; test "$${SIZE:-full}" = full || name="$$name-$$SIZE"; \
	  $(PY) -m train_model.data.prepare --corpus "$$name"

train: $(call NEEDS,train)  ## train RECIPE=demo with fairseq, on a GPU or two cores (TRAIN= passes options)
	@$(PY) -m train_model.train --recipe "$$RECIPE" $(TRAIN)

has-teacher:
	@test -f "$$TEACHER" || \
	  { echo "error: there is no checkpoint $$TEACHER; give an autoregressive one with TEACHER=" >&2; exit 2; }

distill: has-teacher $(call NEEDS,train)  ## a corpus with TEACHER=checkpoint.pt's translations as targets (CORPUS=demo, DISTILL= passes options)
	@$(PY) -m train_model.distill --corpus "$${CORPUS:-demo}" --teacher "$$TEACHER" $(DISTILL)

model-stats: $(ENV_BASE)  ## parameters and Mult-Adds of every recipe next to the published ones
	@$(PY) -m train_model.model_stats

# --- INT8 (doc/int8.md) -------------------------------------------------------------------------
# KEEP= and QUANTIZE= pass options to the calibration, e.g. KEEP="decoder.output_projection *.fc2"
.PHONY: ptq qat sensitivity
CALIBRATE = $(PY) -m train_model.quantization.ptq --model $(MODEL) --output $(PTQ) \
  $(foreach pattern,$(KEEP),--keep $(call quoted,$(pattern))) $(QUANTIZE)
ptq: $(WEIGHTS) | $(call NEEDS,int8)  ## calibrate INT8: a quantised checkpoint of MODEL in half a minute (KEEP="layers")
	@$(CALIBRATE)

$(PTQ): $(WEIGHTS) | $(call NEEDS,int8)
	@$(CALIBRATE) >&2

QAT_RECIPE = train_model/configs/$(NAME_OF_MODEL)-qat.yaml
has-recipe:
	@test -f $(QAT_RECIPE) || { echo "error: there is no recipe $(QAT_RECIPE); works without it: make ptq" >&2; exit 2; }

qat: has-recipe $(PTQ) $(call NEEDS,train int8)  ## fine-tune in INT8 what make ptq calibrated (TRAIN= passes options)
	@$(PY) -m train_model.train --recipe $(NAME_OF_MODEL)-qat $(TRAIN)

sensitivity: | $(call NEEDS,int8)  ## what INT8 costs layer by layer: table, plot, layers worth KEEP= (build/sensitivity)
	@$(PY) -m train_model.quantization.sensitivity --model $(MODEL) $(SENSITIVITY)

# --- CUDA and TensorRT --------------------------------------------------------------------------
# CMake decides what is out of date, so these always run.
.PHONY: nvcc headers plugins torch-ops tensorrt engine-tf32 engine-fp16 engine-bf16 engine-int8 engine-split plans engine-builds
CMAKE_BUILD = CUDACXX="$$($(DOCTOR) --find nvcc)" \
  sh trt_code/cmake/build.sh build/cmake/$@ build $(CMAKE_FLAGS) $(1) >&2

nvcc:  ## install NVIDIA's CUDA 13.0 compiler into .venv if the system has none
	@$(DOCTOR) --require nvcc $(if $(PYTHON),,2>/dev/null || { $(FIND_PYTHON); \
	  echo "installing requirements/nvcc.lock into .venv: CUDA 13.0's compiler, 271 MB, under NVIDIA's licence" >&2; \
	  sh requirements/environment.sh $$python && $(INSTALL) requirements/nvcc.lock; })

headers:  ## fetch TensorRT's headers from GitHub if there are none (build/TensorRT; RELEASE=10.16)
	@$(ANY_PYTHON) -m trt_code.headers $(if $(RELEASE),--release "$$RELEASE") >&2

plugins: needs-cmake nvcc headers  ## build the TensorRT plugins (build/plugins; TENSORRT_ROOT=)
	@$(call CMAKE_BUILD,)

torch-ops: needs-cmake nvcc $(ENV_BASE)  ## build the same kernels as PyTorch operators (build/torch_ops)
	@$(call CMAKE_BUILD,-DLITE_BUILD_PLUGINS=OFF -DLITE_BUILD_TORCH_OPS=ON -DPython_EXECUTABLE="$$(command -v $(PY))")

# TENSORRT=rtx|full|auto: TensorRT for RTX, which builds without a GPU and is installed if no TensorRT is here,
# or the full TensorRT. PLUGINS=lite|none: graphs for our plugins, or of standard operators alone (*.plain.*).
export TENSORRT ?= auto
PLUGINS ?= $(if $(wildcard build/plugins/liblite_plugins_trt*.so)$(filter plugins,$(MAKECMDGOALS)),lite,none)
ifeq ($(filter lite none,$(PLUGINS)),)
$(error PLUGINS=$(PLUGINS) is not known; choose lite or none)
endif
FORM := $(if $(filter none,$(PLUGINS)),.plain)
# Measuring targets use the library and the plans as they are, and build none.
MEASURING := $(filter bench sweep eval,$(MAKECMDGOALS))
MADE_PLUGINS := $(if $(filter none,$(PLUGINS))$(MEASURING),,plugins)
plans_of = $(BUILD)/model.$(1)$(2).plan $(STEPS:%=$(BUILD)/model.$(1)$(2).encoder.plan)
PLANS = $(call plans_of,$(1),$(FORM))
engine-tf32: tensorrt $(call PLANS,tf32)  ## the TensorRT engine, FP32 with TF32 GEMMs (PLUGINS=lite|none)
engine-fp16: tensorrt $(call PLANS,fp16)  ## the TensorRT engine in FP16 (COMPUTE_CAPABILITY=8.6,8.9, ENGINE_FLAGS= passes options)
engine-bf16: tensorrt $(call PLANS,bf16)  ## the TensorRT engine in BF16
engine-int8: tensorrt $(call PLANS,int8)  ## the TensorRT engine in INT8 and FP16, and its layers' precisions

tensorrt: $(ENV_BASE)  ## install TensorRT for RTX into .venv if no TensorRT is here (TENSORRT=rtx|full|auto)
	@$(PY) -m trt_code.engine.install $(IF_ANY) $(if $(PYTHON),--never) --plugins $(PLUGINS) >&2

$(BUILD)/model.int8.plan $(BUILD)/model.int8.plain.plan: ENGINE_FLAGS += --layer-report $(@:.plan=.layers.json)
# A plan also depends on what make does not see (options, TensorRT, plugins, GPU) and the plan's JSON file records,
# so build_engine decides whether to build.
BUILD_ENGINE = $(PY) -m trt_code.build_engine --if-changed $(IF_ANY) $(call option,COMPUTE_CAPABILITY,compute-capability) \
  $(ENGINE_FLAGS) --onnx $(@:.plan=.onnx) --output $@ >&2
CHECKED := $(if $(MEASURING),,.always)
.PHONY: .always
.always:

$(BUILD)/model.%.plan: $(BUILD)/model.%.onnx $(CHECKED) | tensorrt $(MADE_PLUGINS)
	@$(BUILD_ENGINE)

HALVES := encoder $(if $(STEPS),,decoder)
SPLIT_PLANS = $(foreach precision,$(EACH_PRECISION),$(if $(STEPS),$(call PLANS,$(precision)),\
  $(HALVES:%=$(BUILD)/model.$(precision)$(FORM).%.plan)))
engine-split: tensorrt $(SPLIT_PLANS)  ## two engines for each PRECISION, of the files of patch-split

plans: $(ENV_BASE)  ## list the engines of MODEL: who built each, for which GPUs, the plugin libraries that it needs
	@$(PY) -m trt_code.engine.plans --model $(MODEL)

# Every graph that can be made of MODEL: each precision, whole and in halves, with plugins and without.
EVERY_GRAPH = $(foreach precision,fp32 tf32 fp16 bf16 int8,$(foreach form,$(precision) $(precision).plain,\
  $(sort $(BUILD)/model.$(form).onnx $(call half_of,.$(form)))))
engine-builds: tensorrt plugins $(EVERY_GRAPH)  ## build an engine of every graph of MODEL, and record time, memory and size (build/engine_builds)
	@$(PY) -m trt_code.measure.engine_builds --model $(MODEL) $(ENGINE_BUILDS)

define split_plan
$(BUILD)/model.%.$(1).plan: $(BUILD)/model.%.$(if $(STEPS),onnx,decoder.onnx) $(CHECKED) | tensorrt $(MADE_PLUGINS)
	@$$(BUILD_ENGINE)
endef
$(foreach half,$(HALVES),$(eval $(call split_plan,$(half))))

# A GPU and TensorRT are used if they are installed: measuring targets then need these as well.
ifneq ($(filter bench sweep throughput eval test-gpu,$(MAKECMDGOALS)),)
ifeq ($(call HAS,gpu nvcc cmake),yes)
bench sweep throughput eval test-gpu: torch-ops
endif
endif

# The table gives the engines' builder and size even if no GPU can run them, without plugins and, where the
# library is built, with them.
bench: IF_ANY := --if-any
bench: $(foreach precision,tf32 fp16,$(call plans_of,$(precision),.plain) $(if $(FORM),,$(call plans_of,$(precision))))
ifeq ($(call HAS,gpu tensorrt),yes)
sweep eval: $(call PLANS,tf32) $(call PLANS,fp16)
endif

# --- Measure and use ----------------------------------------------------------------------------
.PHONY: bench sweep throughput eval translate translate-corpus report compare triton
# Options that are given to make: RUNNER=ort,torch PRECISION="fp32 fp16" DEVICE=cpu THREADS=2 BEAM=4 LENPEN=0.6 ...
option = $(if $(filter $(1),$(GIVEN)),--$(2) "$$$(1)")
MACHINE_OPTIONS = $(call option,DEVICE,device) $(call option,THREADS,threads) \
  $(call option,KERNELS,kernels) $(call option,CUDA_GRAPH,cuda-graph)
RUN_OPTIONS = $(MACHINE_OPTIONS) $(call option,BEAM,beam) $(call option,LENPEN,lenpen)
RESCORING = $(call option,CANDIDATES,candidates) $(call option,JUDGE,judge)
RUNNER_OPTIONS = $(call option,RUNNER,runner) $(call option,PRECISION,precision) $(RUN_OPTIONS)
COMPARED = --model $(MODEL) $(INT8:%=--precision $(PRECISIONS),%) $(RUNNER_OPTIONS)
bench: PRECISIONS := fp32,tf32,fp16
eval: PRECISIONS := fp32,fp16
bench: $(BUILD)/model.onnx $(SPLIT) $(NATIVE) $(ORT_GRAPHS) $(MEASURED)  ## the table: latency and agreement of every runner (build/bench)
	@$(PY) -m trt_code.bench $(COMPARED) $(call option,SHAPE,shape)

sweep: $(BUILD)/model.onnx $(SPLIT) $(NATIVE) $(ORT_GRAPHS)  ## runners and rivals over batches and lengths (SWEEP= passes options)
	@$(PY) -m trt_code.measure.sweep --model $(MODEL) $(RUN_OPTIONS) $(SWEEP)

throughput: model-has-text $(BUILD)/model.onnx $(SPLIT) $(NATIVE)  ## sentences per second, text in, text out (THROUGHPUT= passes options)
	@$(PY) -m trt_code.measure.throughput --model $(MODEL) $(RUNNER_OPTIONS) $(RESCORING) \
	  $(call option,MAX_TOKENS,max-tokens) $(THROUGHPUT)

eval: model-has-test $(BUILD)/model.onnx $(SPLIT) $(NATIVE) $(ORT_GRAPHS) $(MEASURED)  ## exact match, BLEU and chrF of every runner
	@$(PY) -m trt_code.evaluate $(COMPARED) $(RESCORING) $(call option,LIMIT,limit)

ifneq ($(origin TEXT),undefined)
SENTENCE := -- "$$TEXT"
endif
# The runner native needs no ONNX file, whose export takes a minute. ONNX Runtime reads one graph, in one
# precision; the other runners read the checkpoint or an engine. The compiler is found as in trt_code/native/library.py.
FIND_COMPILER = $(or $(if $(filter-out default undefined,$(origin CXX)),$(CXX)),$(shell command -v c++ || command -v g++ || command -v clang++))
COMPILER := $(if $(filter translate compare,$(MAKECMDGOALS)),$(FIND_COMPILER))
IS_NATIVE := $(filter native,$(RUNNER))$(if $(filter PRECISION RUNNER DEVICE,$(GIVEN)),,$(COMPILER))
GRAPH := $(if $(filter PRECISION,$(GIVEN)),$(patsubst int8,qdq,$(filter-out fp32,$(WITH_GRAPH))))
GRAPH := $(GRAPH:%=.%)
TRANSLATED := $(if $(filter torch cuda-graph trt%,$(RUNNER)),,$(if $(and $(NATIVE),$(IS_NATIVE)),$(NATIVE),$(if $(filter ort,$(RUNNER)),$(BUILD)/model$(GRAPH).onnx,$(call half_of,$(GRAPH)))))
translate: model-has-text $(TRANSLATED)  ## translate TEXT="...", stdin, or what you type (N_BEST= CANDIDATES= UNKNOWN= ON_ERROR= FORMAT=, TRANSLATE= passes options)
	@$(PY) -m trt_code.translate --model $(MODEL) $(RUNNER_OPTIONS) $(RESCORING) $(call option,MAX_TOKENS,max-tokens) \
	  $(call option,N_BEST,n-best) $(call option,UNKNOWN,unknown) $(call option,ON_ERROR,on-error) \
	  $(call option,FORMAT,format) $(TRANSLATE) $(SENTENCE)

translate-corpus: model-has-text $(call NEEDS,ray)  ## translate the files IN= into the folder OUT= on a Ray cluster (WORKERS= ADDRESS= N_BEST=, RAY= passes options)
	@$(PY) -m trt_code.translate_corpus --input "$$IN" --output "$$OUT" --model $(MODEL) $(RUNNER_OPTIONS) \
	  $(call option,MAX_TOKENS,max-tokens) $(call option,N_BEST,n-best) $(call option,UNKNOWN,unknown) \
	  $(call option,WORKERS,workers) $(call option,ADDRESS,address) $(RAY)

report:  ## plot and tabulate again what bench measured
	@$(PY) -m trt_code.report

compare: $(ENV_BASE)  ## both kinds of network side by side (build/compare; COMPARE=), and CTranslate2 on a CPU (build/forced_length)
	@$(MAKE) --no-print-directory onnx-split MODEL=demo
	@$(MAKE) --no-print-directory onnx MODEL=demo-ar
	@$(if $(COMPILER),$(MAKE) --no-print-directory native MODEL=demo && $(MAKE) --no-print-directory native MODEL=demo-ar)
	@$(PY) -m trt_code.measure.compare $(MACHINE_OPTIONS) $(COMPARE)
	@$(if $(filter cuda,$(DEVICE)),,$(PY) -m trt_code.measure.forced_length $(call option,THREADS,threads) --one-pass demo --sentences 500)

triton: model-has-text $(BUILD)/model.onnx  ## a Triton Inference Server model repository in build/triton (doc/serving.md)
	@$(PY) -m trt_code.triton.repository --model $(MODEL) $(call option,BEAM,beam) $(call option,LENPEN,lenpen) $(TRITON)

# --- Checks -------------------------------------------------------------------------------------
CPP_FILES = $(shell find trt_code plugin_attrs_issue -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.h')

.PHONY: test test-slow test-gpu test-ray lint audit clean
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
test: $(call NEEDS,train dev)  ## run every quick test that needs no GPU (PYTEST= passes options)
	$(PY) -m pytest -m "not gpu and not ray and not slow" $(PARALLEL) $(PYTEST)

test-slow: $(call NEEDS,train dev)  ## test every network in every precision; an engine of each if TensorRT RTX is installed
	$(PY) -m pytest -m "slow and not gpu" $(PARALLEL) $(PYTEST)

test-gpu: needs-gpu $(call NEEDS,dev)  ## run the tests that need a CUDA GPU
	$(PY) -m pytest -m gpu $(PYTEST)

test-ray: $(call NEEDS,train dev ray)  ## run the tests of corpora on a Ray cluster of two nodes, started here
	$(PY) -m pytest -m "ray and not gpu" $(PYTEST)

lint: $(call NEEDS,dev)  ## run ruff and clang-format; they change nothing
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	@echo "clang-format --dry-run -Werror ($(words $(CPP_FILES)) files)"
	@$(PY) -c 'import clang_format; clang_format.clang_format()' --dry-run -Werror $(CPP_FILES)

# In separate environments, so that these tools' dependencies are not among the locked and checked ones.
audit: build/audit/bin/pip-audit  ## check the locked versions against the security advisories on PyPI
	@$(PY) requirements/audit.py $<

build/audit/bin/pip-audit: override INTO := build/audit
build/lock/bin/uv: override INTO := build/lock
build/audit/bin/pip-audit: requirements/audit.lock
build/lock/bin/uv: requirements/lock.lock
build/audit/bin/pip-audit build/lock/bin/uv: | $(ENV_BASE)
	@echo "installing $< into $(INTO)" >&2
	@$(PY) -m venv --clear $(INTO) && sh requirements/install.sh $(INTO)/bin/python $< || \
	  { rm -rf $(INTO); echo "error: $< could not be installed; this target needs the network and PyPI" >&2; exit 2; }

clean:  ## remove what was built; .venv and downloads stay
	rm -rf build
