"""compile_cost.py: plain Python works until what it may do is used up."""

import pytest

from lmfast.tokenizer import compile_cost
from lmfast.tokenizer.compile_cost import Allowance


@pytest.mark.parametrize(("saved", "least"), [(False, 100), (True, 10)])
def test_work_is_covered_until_it_is_used_up(monkeypatch, tmp_path, saved, least):
    monkeypatch.setattr(compile_cost, "code_folder", lambda: tmp_path)
    if saved:
        (tmp_path / "compiled_0").mkdir()
        (tmp_path / "compiled_0/loops.add-12.py312.nbi").touch()
    allowance = Allowance("loops.add", first=100, later=10)
    assert allowance.covers(least - 1) and allowance.covers(1) and allowance.covers(0)
    assert not allowance.covers(1) and not allowance.covers(0)
    assert not Allowance("loops.add", first=100, later=10).covers(least + 1)


def test_the_code_of_another_function_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setattr(compile_cost, "code_folder", lambda: tmp_path)
    (tmp_path / "compiled_0").mkdir()
    (tmp_path / "compiled_0/loops.add_all-12.py312.nbi").touch()
    assert not compile_cost.is_compiled("loops.add")


def test_compiled_code_is_found():
    """By the names under which Numba saves it."""
    from lmfast.tokenizer.compiled import code_cache
    from lmfast.tokenizer.compiled.encode_kernels import encode_gpt2

    code_cache.enable_cache(encode_gpt2)
    assert encode_gpt2._cache._impl.filename_base.startswith("encode_kernels.encode_gpt2-")
