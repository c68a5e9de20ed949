"""Sets an environment variable when it is imported, as some libraries do."""

import os

os.environ["FOURSHOT_SET_AT_IMPORT"] = os.environ.get("OPENBLAS_NUM_THREADS", "")
