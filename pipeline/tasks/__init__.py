"""The task: its types, its file, its tables, its check. Its modules load none of torch, vllm, pyarrow and datasets."""
