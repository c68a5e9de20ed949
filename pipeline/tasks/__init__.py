"""Tasks: their types, files, data and checks. Importing these modules loads no torch, vllm, pyarrow or datasets."""
