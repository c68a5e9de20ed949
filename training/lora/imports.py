"""Imports the libraries that a training needs, for the process that is forked for trainings (`machine.fork_server`).

This includes vLLM, because every adapter is checked by vLLM's own rules when it is saved.
"""

import peft  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import fourshot.training.lora.train  # noqa: F401
from fourshot.engine.vllm_seams import adapter_check
from fourshot.engine.vllm_start import keep_quiet

keep_quiet()
adapter_check.SEAM.holds()  # imports the parts of vLLM that the check uses
