import dataclasses
import re

from lmfast.sweeps.groups import group_trials
from lmfast.sweeps.tables import group_table, report_link, states_text, trial_table
from lmfast.sweeps.trial_runs import read_trials
from lmfast.sweeps.trials import Trial
from tests.sweeps.synthetic import ablation, learning_rate_sweep


def rows_of(table):
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    return [[re.sub(r"<span.*?</span>", "", cell) for cell in row] for row in rows]


def groups_table(results, colours=()):
    return group_table(results, group_trials(results), read_trials(results), colours)


def test_a_row_per_group_best_first_with_its_spread(tmp_path):
    table = groups_table(learning_rate_sweep(tmp_path))
    rows = rows_of(table)
    assert len(rows) == 14 and rows[0][:2] == ["0.003", "32"]
    means = [float(row[2]) for row in rows[:11]]
    assert means == sorted(means)
    low, high = map(float, rows[0][3].split(" to "))
    assert low < means[0] < high and "sd" not in rows[0][3]
    assert rows[0][4:] == ["21,283", "1 min 30 s", "2 complete"]
    assert rows[11][:4] == ["0.03", "32", rows[11][2], ""] and "1 complete, 1 diverged" in rows[11][6]
    assert rows[13][2] == "–" and "diverged: loss is not finite for 10 steps" in rows[13][6]


def test_one_seed_has_no_spread(tmp_path):
    results = learning_rate_sweep(tmp_path)
    table = groups_table(dataclasses.replace(results, trials=results.trials[::2]))
    assert "spread" not in table and "sd" not in table and ", mean" not in table


def test_differences_from_the_first_variant_are_marked_if_they_exceed_the_spread(tmp_path):
    table = groups_table(ablation(tmp_path))
    rows = {row[0]: row for row in rows_of(table)}
    assert rows["plain"][3] == "reference" and "sd 0.00" in rows["plain"][2]
    assert re.fullmatch(r"<b>−0\.0\d+ ± 0\.0\d+ better</b>", rows["muon"][3])
    assert re.fullmatch(r"<b>\+0\.0\d+ ± 0\.0\d+ worse</b>", rows["post norm"][3])
    assert rows["no norm"][3] == "" and "95 % confidence interval" in table
    maximized = groups_table(dataclasses.replace(ablation(tmp_path / "b"), direction="maximize"))
    assert "worse" in {row[0]: row for row in rows_of(maximized)}["muon"][3]


def test_without_seeds_differences_have_no_interval(tmp_path):
    table = groups_table(ablation(tmp_path, seeds=1))
    cells = [row[2] for row in rows_of(table)]
    assert "reference" in cells and "±" not in table.split("</table>")[0] and "<b>" not in table
    assert "may be due to chance" in table and "confidence" not in table


def test_texts_are_escaped(tmp_path):
    results = learning_rate_sweep(tmp_path)
    bad = Trial(40, {"variant": "<i>", "a<b": 1}, "failed", tmp_path / "absent", None, "<script>")
    results = dataclasses.replace(results, metric="<m>", trials=[*results.trials, bad])
    for table in (
        groups_table(results, ["#fff"] * 15),
        trial_table(results, read_trials(results), tmp_path / "p.html"),
    ):
        for text in ("<i>", "a<b", "<script>", "<m>"):
            assert text not in table and text.replace("<", "&lt;").replace(">", "&gt;") in table


def test_each_trial_with_a_link_to_its_report_if_it_has_one(tmp_path):
    results = learning_rate_sweep(tmp_path / "my sweep")
    (tmp_path / "my sweep/trials/0001/report.html").unlink()
    page = tmp_path / "pages/page.html"
    table = trial_table(results, read_trials(results), page)
    assert '<a href="../my%20sweep/trials/0000/report.html">0000</a>' in table
    assert "<td>0001</td>" in table and len(rows_of(table)) == 28
    assert report_link(results.trials[1], page) is None
    assert states_text(results.trials) == "23 complete, 5 diverged"
