"""What some libraries do when they are imported: they set a variable of the environment."""

import os

os.environ["FOURSHOT_SET_AT_IMPORT"] = os.environ.get("OPENBLAS_NUM_THREADS", "")
