import json

import pytest

from lmfast.data.chat_records import Message, read_conversations, read_preferences
from lmfast.errors import UserError

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))


def written(path, records):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n\n" for record in records))
    else:
        path.write_text(json.dumps(records))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_every_format_is_detected_and_gives_messages(tmp_path, name):
    records = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "hi", "system": "Be brief."},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
            ]
        },
    ]
    found, bad = read_conversations(written(tmp_path / name, records))
    assert found == [
        (U("Add.\n\n1 2"), A("3")),
        (S("Be brief."), U("Say hi."), A("hi")),
        (U("a"), A("b")),
        (S("s"), U("a"), A("b")),
    ]
    assert bad == {}


def test_a_named_format_decides_if_a_record_has_two(tmp_path):
    both = {"instruction": "i", "output": "o", "messages": [["x"]]}
    path = written(tmp_path / "a.json", [both])
    assert read_conversations(path, "alpaca")[0] == [(U("i"), A("o"))]
    with pytest.raises(UserError, match="messages whose message 1 is an array"):
        read_conversations(path)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, "is a number, not an object"),
        (None, "is null, not an object"),
        ({"text": "x"}, "has text instead of instruction"),
        ({"instruction": "i"}, "has no output"),
        ({"instruction": "i", "output": " "}, "has an empty output"),
        ({"instruction": "i", "output": 3}, "has output as a number, not as a string"),
        ({"messages": []}, "not a list of messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "the role 'wizard'"),
        ({"messages": [{"role": "user"}]}, "has no text"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "ends with a message from the user, not from the assistant",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "has no user message"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "system", "value": "y"}]},
            "a system message in position 2",
        ),
        (
            {"instruction": "i", "output": "\ud83d"},
            r"half a surrogate pair ('\ud83d') in the assistant message",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "is a preference"),
    ],
)
def test_a_bad_record_is_one_line_with_file_number_and_reason(tmp_path, record, reason):
    good = {"instruction": "i", "output": "o"}
    path = written(tmp_path / "a.json", [good, record])
    with pytest.raises(UserError) as error:
        read_conversations(path)
    assert str(error.value).startswith(f"{path}: record 2 ") and reason in str(error.value)
    assert "\n" not in str(error.value)
    found, bad = read_conversations(path, skip_bad=True)
    assert len(found) == 1 and sum(bad.values()) == 1


def test_files_without_records(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_conversations(tmp_path / "none.json")
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "i", "output": "o"}\n{"instr')
    with pytest.raises(UserError, match=r"line 2 is not valid JSON .* or skip bad records with --skip-bad"):
        read_conversations(path)
    found, bad = read_conversations(path, skip_bad=True)
    assert found == [(U("i"), A("o"))] and sum(bad.values()) == 1
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_conversations(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="no usable record"):
        read_conversations(path)


def test_files_as_editors_and_other_tools_write_them(tmp_path):
    """A byte order mark, CRLF, blank lines, one record alone on several lines, a record among an object's many fields."""
    path, record = tmp_path / "a.json", {"instruction": "i", "output": "o"}
    text = json.dumps(record)
    for data, name, count in (
        (f"\ufeff[{text}]", "a.json", 1),
        (f"\ufeff{text}\r\n \r\n{text}\r\n", "a.jsonl", 2),
        (json.dumps(record, indent=1), "a.json", 1),
        (f"{text}\n{text}", "a.json", 2),
    ):
        path = tmp_path / name
        path.write_bytes(data.encode())
        assert read_conversations(path)[0] == [(U("i"), A("o"))] * count, data
    path.write_text(json.dumps({"data": [record]}, indent=1))
    with pytest.raises(UserError, match="record 1 has data instead of instruction"):
        read_conversations(path)
    path.write_text(json.dumps([{f"field{i}": 1 for i in range(100)}]))
    with pytest.raises(UserError, match="field7, … instead of"):
        read_conversations(path)
    path.write_text(text[:-1] + "\n")
    with pytest.raises(UserError, match="line 1 is not valid JSON"):
        read_conversations(path)


def test_preferences_in_strings_messages_with_and_without_the_prompt(tmp_path):
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    a, b = {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
    records = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"instruction": "p", "input": "x", "chosen": "a", "rejected": "b", "output": "ignored"},
        {"prompt": prompt, "chosen": [a], "rejected": [b]},
        {"prompt": prompt, "chosen": [*prompt, a], "rejected": [*prompt, b]},
        {"prompt": "p", "chosen": [prompt[1], a], "rejected": [prompt[1], b]},
        {"chosen": [*prompt, a], "rejected": [*prompt, b]},
    ]
    found, bad = read_preferences(written(tmp_path / "a.jsonl", records))
    assert [pair.chosen for pair in found] == [(A("a"),)] * 6
    assert [pair.rejected for pair in found] == [(A("b"),)] * 6
    talk = (S("s"), U("p"))
    assert [pair.prompt for pair in found] == [(U("p"),), (U("p\n\nx"),), talk, talk, (U("p"),), talk]
    assert bad == {}


def test_the_prompt_is_the_common_part_of_two_conversations_and_answers_may_repeat_it(tmp_path):
    u, a, b = (
        {"role": role, "content": text}
        for role, text in (("user", "p"), ("assistant", "a"), ("assistant", "b"))
    )
    other = {"role": "user", "content": "p2"}
    records = [
        {"chosen": [u, a, other, a], "rejected": [u, a, other, b]},
        {"chosen": [u, a, other, a], "rejected": [u, b, other, b]},
        {"chosen": [u, a, other, a], "rejected": [u, b]},
        {"prompt": "p", "chosen": [u, a], "rejected": [b]},
        {"prompt": [u], "chosen": [a], "rejected": [u, b]},
    ]
    found, _ = read_preferences(written(tmp_path / "a.json", records))
    assert [pair.prompt for pair in found] == [(U("p"), A("a"), U("p2")), *[(U("p"),)] * 4]
    assert [pair.chosen for pair in found[:3]] == [(A("a"),), *[(A("a"), U("p2"), A("a"))] * 2]
    assert [pair.rejected for pair in found] == [(A("b"),), (A("b"), U("p2"), A("b")), *[(A("b"),)] * 3]
    for record, reason in (
        (
            {"chosen": [u, a], "rejected": [other, b]},
            "has no prompt, and chosen and rejected do not start with the same one",
        ),
        ({"chosen": "a", "rejected": "b"}, "has no prompt"),
        (
            {"prompt": "p", "chosen": [other, a], "rejected": "b"},
            "chosen messages that neither answer nor repeat",
        ),
        ({"prompt": "p", "chosen": [a], "rejected": [u]}, "ends with a message from the user"),
        ({"prompt": "", "chosen": [a], "rejected": [b]}, "an empty user message in position 1"),
        ({"chosen": [u, a], "rejected": [u, a]}, "has identical chosen and rejected answers"),
    ):
        with pytest.raises(UserError, match=reason):
            read_preferences(written(tmp_path / "a.json", [record]))


def test_a_bad_preference(tmp_path):
    path = written(tmp_path / "a.json", [{"prompt": "p", "chosen": "a", "rejected": "a"}] * 2)
    with pytest.raises(UserError, match="record 1 has identical chosen and rejected answers"):
        read_preferences(path)
    with pytest.raises(UserError, match="2 bad ones skipped"):
        read_preferences(path, skip_bad=True)
    path = written(tmp_path / "a.json", [{"prompt": "p", "chosen": "a"}])
    with pytest.raises(UserError, match="has no rejected"):
        read_preferences(path)
