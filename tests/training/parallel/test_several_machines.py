"""Two agents of torchrun, as on two machines, train what one process trains."""

import socket
import subprocess
import sys

import pytest

from lmfast import load_run
from lmfast.train import train
from tests.training.forked_runs import close

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes that share the loopback")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.ci
def test_hsdp_over_two_agents_equals_one_process(corpus, tmp_path):
    """Shards within each agent's two ranks, copies over the agents, both writing one checkpoint."""
    flags = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--parallel", "hsdp"]
    train([*flags, "--out-dir", str(tmp_path / "one")])
    port = free_port()
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}"),
                *("--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *("-m", "lmfast.train", *flags, "--out-dir", str(tmp_path / "two")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [agent.communicate(timeout=200)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert "on 4 × " in outputs[0] and "step 6/6" in outputs[0] and "step 6/6" not in outputs[1]
    one, two = (load_run(tmp_path / name)[0].named_weights() for name in ("one", "two"))
    close(one, two)
