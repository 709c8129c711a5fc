from bench import parallel_table


def test_the_guide_has_the_tables_that_the_formulas_give():
    guide = parallel_table.GUIDE.read_text("utf-8")
    assert parallel_table.with_tables(guide) == guide, "run python -m bench.parallel_table --write"


def test_the_models_have_the_sizes_of_their_names():
    for name, (config, _, _) in parallel_table.MODELS.items():
        unit = {"M": 1e6, "B": 1e9}[name[-1]]
        assert abs(parallel_table.num_parameters(config) / unit / float(name[:-1]) - 1) < 0.05, name


def test_torchtitans_throughput_is_the_mfu_that_it_states():
    """33 % and 39 %, rounded down."""
    rows = parallel_table.torchtitan_table().splitlines()[2:]
    assert [row.split(" | ")[3][:3] for row in rows] == ["33.", "39."]
