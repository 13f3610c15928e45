# One model in PARTS files, each made by a job of its own, on one machine or on several with a shared disk:
#
#   make -f examples/parts.mk -j4 MODEL=models/Llama-3.1-70B TYPE=q4_k_m PARTS=4
#
# Each job reads only the tensors that it needs. There is no merge step: the first file stands for the whole model.

MODEL   ?= model
TYPE    ?= q4_k_m
PARTS   ?= 4
OUT     ?= $(notdir $(MODEL))-$(TYPE)
QCONV   ?= qconv
THREADS ?= 2

NUMBERS := $(shell seq $(PARTS))
name     = $(shell printf '%s-%05d-of-%05d.gguf' $(OUT) $(1) $(PARTS))
FILES   := $(foreach k,$(NUMBERS),$(call name,$(k)))

.PHONY: all verify
all: $(FILES)

verify: $(FILES)
	$(QCONV) verify $(firstword $(FILES))

define rule
$(call name,$(1)): $(wildcard $(MODEL)/*)
	$(QCONV) convert $(MODEL) -t $(TYPE) -o $(OUT).gguf --part $(1)/$(PARTS) --if-changed --resume --threads $(THREADS) -q
endef
$(foreach k,$(NUMBERS),$(eval $(call rule,$(k))))
