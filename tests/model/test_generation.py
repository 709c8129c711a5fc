"""A model generates from wherever its class was imported, and decoding is loaded only then."""

import subprocess
import sys

CODE = """
import sys
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
model = TransformerLM(ModelConfig(d_model=32, num_layers=1, num_heads=2, d_ff=48, vocab_size=300, context_length=32))
assert "lmfast.inference.decode" not in sys.modules
print(len(model.generate([1, 2], max_tokens=4, seed=0)))
"""


def test_a_model_from_its_own_module_generates():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr
