"""Imports what a training needs, and nothing else: the process that is copied for trainings (`machine.fork_server`).

vLLM, too, whose check every adapter passes when it is saved.
"""

import peft  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import fourshot.training.lora.train  # noqa: F401
from fourshot.engine.vllm_seams import adapter_check
from fourshot.engine.vllm_start import keep_quiet

keep_quiet()
adapter_check.SEAM.holds()  # which imports what it asks about
