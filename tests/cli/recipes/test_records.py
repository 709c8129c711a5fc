"""Records survive damage, and hold what determines the output."""

from lmfast.cli.recipes.graph import steps_in_order
from lmfast.cli.recipes.records import Record, decide, read_record, record_path, settings_key, write_record
from lmfast.cli.recipes.specification import read_recipe


def steps(tmp_path, **options):
    text = "stages:\n  a: {command: train, config: quickstart"
    text += "".join(f", {name}: {value}" for name, value in options.items()) + "}\n"
    (tmp_path / "r.yaml").write_text(text)
    return steps_in_order(read_recipe(str(tmp_path / "r.yaml"), [f"folder={tmp_path}"]))[0]


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record({"d_model": 8}, {"run 0": "abc"}, "out", True, True, {"": 3}, 1.5, 100)
    write_record(tmp_path, "a", record)
    assert read_record(tmp_path, "a") == record


def test_a_damaged_record_counts_as_none(tmp_path):
    assert read_record(tmp_path, "a") is None
    write_record(tmp_path, "a", Record())
    record_path(tmp_path, "a").write_text('{"settings": ')
    assert read_record(tmp_path, "a") is None
    record_path(tmp_path, "a").write_text('{"from_the_future": 1}')
    assert read_record(tmp_path, "a") is None


def test_the_content_of_a_settings_file_counts_and_the_place_of_the_output_does_not(tmp_path):
    one, other = steps(tmp_path), steps(tmp_path, d_model=192, out_dir=tmp_path / "b")
    assert settings_key(one) == settings_key(other)
    assert settings_key(one) != settings_key(steps(tmp_path, d_model=96))


def test_the_decision_about_a_stage(tmp_path):
    step = steps(tmp_path)
    here = Record(settings_key(step), {}, str(step.output.absolute()), created=True)
    assert decide(step, None, set()).action == "run"
    assert decide(step, here, set()).action == "resume"
    here.finished = True
    assert decide(step, here, set()).why.endswith("is missing or damaged")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.yaml").write_text("x")
    here.outputs = {"config.yaml": 1}
    assert decide(step, here, set()).action == "skip"
    assert decide(steps(tmp_path, log_interval=7), here, set()).action == "continue"
    changed = decide(steps(tmp_path, d_model=96), here, set())
    assert (changed.action, changed.clear, changed.why) == ("run", True, "changed: d_model")
    assert decide(steps(tmp_path, out_dir=tmp_path / "b"), here, set()).clear is False
