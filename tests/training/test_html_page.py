from lmfast.training.html_page import data_cells, document, number, scrolling_table


def test_a_title_and_cells_are_escaped():
    page = document("a <b>", "<p>x</p>", "p { color: red; }")
    assert (
        "<title>a &lt;b&gt;</title>" in page
        and "<body><main><p>x</p></main></body>" in page
        and "p { color: red; }</style>" in page
    )
    assert data_cells(["<", "2"]) == "<td>&lt;</td><td>2</td>"


def test_a_table_scrolls_in_a_labelled_region():
    table = scrolling_table(["<b>a</b>"], ["<td>1</td>"], 'all "rows"')
    assert table.startswith(
        '<div class="scroll" role="region" tabindex="0" aria-label="all &quot;rows&quot;"><table'
    )
    assert '<tr><th scope="col"><b>a</b></th></tr><tr><td>1</td></tr>' in table


def test_numbers_have_separators_and_the_given_decimals():
    assert [number(None), number(1234), number(1234.5, 2), number(2.0, 0)] == ["", "1,234", "1,234.50", "2"]
