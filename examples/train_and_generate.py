"""Train a tiny model on a token file from Python, load it and continue a sequence."""

import numpy as np

from lmfast import load_run
from lmfast.train import train

np.save("counting.npy", np.arange(20_000, dtype=np.uint16) % 50)  # 0, 1, …, 49, 0, 1, …

train(
    "--train-data counting.npy --tokenizer none --vocab-size 50 --out-dir runs/counting --device cpu --context-length 32 "
    "--d-model 32 --num-layers 1 --num-heads 2 --batch-size 8 --max-iters 150 --warmup-iters 10 --lr 1e-2".split()
)

model, tokenizer, config = load_run("runs/counting")
assert tokenizer is None and config.d_model == 32
print(model.generate([7, 8, 9], max_tokens=10, temperature=0))  # [10, 11, 12, …]
