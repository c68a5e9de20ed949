"""Fixtures for all tests: the embedded model, small random models, one engine of each kind per session, a browser."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fourshot.engine.core import Adapter, Engine, EngineSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("FOURSHOT_FORECAST", "0")  # otherwise, a command first measures this machine for half a minute
os.environ.setdefault("FOURSHOT_TRAIN_AT_ONCE", "1")  # the tests themselves run in parallel
# Set before torch is loaded. Threads that spin while waiting starve each other on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray reads its authentication mode and token once per process, so all clusters of the tests must share them.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# The slowest files. They start first, so that they do not run alone in one process at the end.
LONGEST = (
    "tests/pipeline/runs/test_kill.py",
    "tests/serving/test_server.py",
    "tests/pipeline/runs/test_on_machines.py",
    "tests/training/jobs/test_ray_jobs.py",
    "tests/serving/test_replicas.py",
    "tests/pipeline/loop/test_many_machines.py",
    "tests/pipeline/loop/test_rounds.py",
    "tests/engine/test_closing.py",
    "tests/pipeline/loop/test_cut_off.py",
    "tests/training/jobs/test_processes.py",
    "tests/pipeline/loop/test_ray_workers.py",
    "tests/training/jobs/test_at_once.py",
    "tests/training/lora/test_families.py",
    "tests/scripts/test_setup_env.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, sort the files of `LONGEST` first; ``--no-loadscope-reorder`` keeps this order."""
    if hasattr(config, "workerinput"):
        place = {name: index for index, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONGEST)))


CHROMIUM = shutil.which("chromium")
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="session")
def model() -> str:
    """Folder of the embedded model's checkpoint."""
    from fourshot.engine.checkpoints.embedded import embedded_model

    return str(embedded_model())


def random_llama(model: str, **sizes: float) -> tuple[Any, Any]:
    """Return a model with two random layers of these ``sizes``, and the tokenizer of ``model``."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **ends, **sizes)), tokenizer


def save_model(random_model: Any, tokenizer: Any, folder: Path) -> str:
    import torch

    tokenizer.save_pretrained(folder)
    random_model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of two narrow random layers with the embedded model's tokenizer, for tests independent of the weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return save_model(*random_llama(model, **sizes), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def narrow_model(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of two random layers that vLLM supports. They generate short lines of words from a set of 128."""
    import torch

    random_model, tokenizer = random_llama(model, hidden_size=64, intermediate_size=64, num_attention_heads=1)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    words = [token for word, token in vocabulary if re.fullmatch("Ġ[A-Za-z]{4,}", word)][:128]
    (newline,) = tokenizer.encode("\n", add_special_tokens=False)
    with torch.no_grad():  # a component common to all tokens makes these words likely, and a line end more likely
        random_model.model.embed_tokens.weight[:, 0] = 0.1
        random_model.lm_head.weight[words, 0] = 2.0
        random_model.lm_head.weight[newline, 0] = 2.5
    return save_model(random_model, tokenizer, tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="session")
def decided_model(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of two random layers that vLLM supports, with scores like a trained base's.

    Label scores differ by nats and depend on the text. For any prompt, " warm" and " cold" are among the likeliest
    tokens.
    """
    import torch

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1}
    random_model, tokenizer = random_llama(model, **sizes, initializer_range=0.1)
    words = [tokenizer.encode(word, add_special_tokens=False)[0] for word in (" warm", " cold")]
    with torch.no_grad():  # a component common to all tokens passes the layers unchanged, and makes these words likely
        random_model.lm_head.weight.mul_(3)
        random_model.lm_head.weight[words, 0] = 30.0
        random_model.model.embed_tokens.weight[:, 0] = 0.3
        for layer in random_model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
    return save_model(random_model, tokenizer, tmp_path_factory.mktemp("decided"))


@pytest.fixture(scope="session")
def narrow_engine(narrow_model: str) -> Iterator[Engine]:
    """vLLM with the cheap narrow base, for tests independent of the weights."""
    from fourshot.engine.opening import open_engine

    engine = open_engine(EngineSettings(model=narrow_model, max_loras=2, kv_cache_bytes=64 << 20, max_model_len=1024))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def adapters(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two LoRA adapters of rank 8 on all projections, random and large enough to change predictions."""
    return random_adapters(model, tmp_path_factory)


@pytest.fixture(scope="session")
def narrow_adapters(narrow_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two adapters like `adapters`, for the narrow base."""
    return random_adapters(narrow_model, tmp_path_factory)


def random_adapters(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        config = LoraConfig(r=8, lora_alpha=32, target_modules=list(ADAPTED), task_type="CAUSAL_LM")
        adapted = get_peft_model(base, config)
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.06)
        folder: Path = tmp_path_factory.mktemp("adapter")
        adapted.save_pretrained(str(folder))
        made.append(Adapter(name=f"random-{seed}", path=str(folder)))
    return made[0], made[1]


@pytest.fixture(scope="session")
def vllm_engine(model: str) -> Iterator[Engine]:
    """The session's vLLM engine of the embedded model, with two adapters per batch."""
    from fourshot.engine.opening import open_engine

    engine = open_engine(EngineSettings(model=model, max_loras=2, kv_cache_bytes=256 << 20, max_model_len=1024))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference_engine(model: str) -> Iterator[Engine]:
    """The reference engine: transformers and PEFT."""
    from fourshot.engine.opening import open_engine

    engine = open_engine(EngineSettings(model=model, kind="transformers", max_model_len=1024))
    yield engine
    engine.close()


@pytest.fixture(scope="module")  # not session: while it is open, an asyncio loop runs, and other tests cannot run one
def browser() -> Iterator["Browser"]:
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
