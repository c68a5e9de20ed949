"""Every place where fourshot touches what vLLM does not promise to keep; see `contract` for what guards them.

plugin           what vLLM loads in each of its processes: lora_kernels, lora_loads, lora_pins
lora_kernels     when the CPU's LoRA arithmetic is replaced;  grouped_lora: by what
lora_files       adapters' files, read at once
lora_loads       how often adapters are fetched, and when a slot gets other weights
lora_pins        adapters that are pinned in their slot give way to a step that needs it
cpu_sampling     sampling on the CPU with less work per step
imports          what an engine imports, for the process that is copied for engines
in_process       an engine in this process: threads, and the end of it
lora_support     on which architectures vLLM serves adapters
adapter_check    vLLM's own check of an adapter's files
api_server       vLLM's server, started from Python
client           an engine's client inside that server: requests in flight, model names, times
"""
