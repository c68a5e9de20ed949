from pathlib import Path

import pytest

from training.lora import LoraTrainer


@pytest.fixture(scope="session")
def trainer(model: str) -> LoraTrainer:
    """The embedded model, loaded once for all trainings of the session."""
    return LoraTrainer(model)


@pytest.fixture(scope="session")
def tiny_model(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model's tokenizer with two narrow random layers: for what does not depend on what is learnt."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder: Path = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)
