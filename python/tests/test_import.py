"""What `import pawl` costs, and what it leaves alone."""

import json
import subprocess
import sys

HEAVY = ("torch", "numpy", "transformers", "lightning", "pytorch_lightning", "accelerate", "torchdata", "tqdm")
CODE = """
import json, sys, time
began = time.process_time()
import pawl
took = time.process_time() - began
print(json.dumps({"ms": took * 1000, "modules": sorted(name.partition(".")[0] for name in sys.modules)}))
"""


def imported():
    return json.loads(subprocess.check_output([sys.executable, "-c", CODE], text=True))


def test_it_imports_nothing_that_is_slow():
    assert not set(HEAVY) & set(imported()["modules"])


def test_it_takes_less_than_50_ms():
    # Of the processor's time, and the best of three: the machine may have other things to do.
    assert min(imported()["ms"] for _ in range(3)) < 50


def test_the_names_that_come_later_are_listed():
    code = "import pawl; print(sorted(set(['attach', 'hf', 'lightning', 'logging']) - set(dir(pawl))))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
