"""Imported by a fork server in tests: it leaves a process that ends later, as a library might."""

import subprocess

LEFT = subprocess.Popen(["sleep", "0.5"])
