"""All code that relies on vLLM internals, one module per place; `contract` guards them.

plugin           the vLLM plugin, loaded in each of its processes: lora_kernels, cpu_eager, lora_loads, lora_pins
lora_kernels     decides when the LoRA arithmetic on the CPU is replaced;  grouped_lora: the replacement
lora_files       reads an adapter's file with a single read
lora_loads       counts adapter loads, and changes of a slot's weights
lora_pins        lends the slots of pinned adapters to steps that need them
cpu_eager        norms and token ranks for engines on the CPU that are not compiled
cpu_sampling     sampling on the CPU with less work per step
imports          imports of an engine, for the process that is forked for engines
in_process       an engine in this process: its threads, and stopping it
lora_support     the architectures on which vLLM serves adapters
adapter_check    vLLM's own check of an adapter's files
api_server       vLLM's server, started from Python
client           an engine's client inside that server: requests in flight, model names, times
"""
