"""Imports what a training needs, and nothing else: the process that is copied for trainings (`machine.fork_server`)."""

import peft  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import fourshot.training.lora.train  # noqa: F401
