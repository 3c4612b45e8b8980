"""Counts down, a line at a time, so that you can see the output arrive while the script runs."""

import platform
import time

print(f"Hello from Python {platform.python_version()}", flush=True)
for number in (3, 2, 1):
    time.sleep(0.1)
    print(f"{number} ...", flush=True)
time.sleep(0.1)
print("Done. 🎉", flush=True)
