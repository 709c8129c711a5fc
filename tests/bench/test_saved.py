"""Both kinds of saved files, in one form."""

import json

import pytest

from bench import saved
from lmfast.errors import UserError
from tests.bench.results import result, row, run, target_table


def test_a_run_of_the_suite():
    one = run(result("encode[A]", 0.001, {"tiktoken": 2.0, "gigatoken": 0.5})) | {"source": "0001"}
    (entry,) = saved.entries(one)
    assert (entry.group, entry.name, entry.seconds) == ("tokenizer", "encode[A]", 0.001)
    assert {peer.name: peer.seconds for peer in entry.peers} == {"tiktoken": 0.002, "gigatoken": 0.0005}
    assert entry.fastest.name == "gigatoken" and entry.note == "1 ms, 250 k tokens/s, 1 MB/s"
    assert saved.facts(one)[:3] == [
        "Suite, quick sizes: A <CPU>, 2 cores",
        "2026-11-23 08:00 UTC, commit abc with uncommitted changes, Linux x86_64, host here",
        "from 0001.json",
    ]
    one["machine_info"]["selection"] = "-k encode"
    assert saved.facts(one)[0] == "Suite, quick sizes, a selection (-k encode): A <CPU>, 2 cores"


def test_a_table_of_targets():
    """A peer timed on a part stands beside our time for that part; what was not timed has no seconds."""
    one = target_table(row("encode A", 0.3, "tiktoken", share=0.1), row("memory", 0, None)) | {
        "source": "tokenizer_amd"
    }
    assert saved.facts(one)[0] == "Targets of the tokenizer table: A <CPU>, 2 cores"
    encode, memory = saved.entries(one)
    assert encode.group == "tokenizer" and encode.seconds == pytest.approx(0.03)
    assert memory.seconds is None and not memory.peers
    assert encode.cells == ["encode A", "2.0 x", "≥ 3", "", "missed"]


@pytest.mark.parametrize(
    ("table", "name"), [("generation", "LlamaForCausalLM.generate"), ("training", "LlamaForCausalLM")]
)
def test_a_tables_peer_has_a_name(table, name):
    """bench.generation_table and bench.training_table time one "peer" each."""
    (entry,) = saved.entries(target_table(row("x", 1.0, "peer")) | {"source": f"{table}_amd"})
    assert (entry.peers[0].name, entry.peers[0].seconds) == (name, 2.0)


def test_every_kept_result_can_be_read_and_says_when():
    files = sorted(saved.RESULTS.glob("*.json"))
    assert files
    for run_ in saved.read(files):
        assert run_.get("datetime"), (
            f"bench/results/{run_['source']}.json: has no datetime; measure again, or add the time that it was measured"
        )
        assert saved.entries(run_) and saved.facts(run_)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "holds no benchmarks"),
        ("[1]", "holds no benchmarks"),
        ('{"benchmarks": []}', "does not say cpu"),
        (
            '{"rows": [], "cpu": "x", "cores": 2, "gpu": null, "host": "h", "system": "s", "versions": {}}',
            "not say commit",
        ),
        (json.dumps(run() | {"benchmarks": [1]}), "a result in it is not as this suite saves one"),
        (
            json.dumps(run() | {"benchmarks": [{"fullname": "x"}]}),
            "a result in it is not as this suite saves one",
        ),
        (
            json.dumps(target_table() | {"rows": [{"name": "x"}]}),
            "a result in it is not as this suite saves one",
        ),
        (json.dumps(run()).replace('"mode"', '"size"'), "does not say mode"),
        (json.dumps(run()).replace('"gpu"', '"chip"'), "does not say gpu"),
    ],
)
def test_files_that_are_no_runs_are_refused(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        saved.read([path])


def test_the_source_is_the_files_name(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(run()))
    assert saved.read([tmp_path / "x.json"])[0]["source"] == "x"
