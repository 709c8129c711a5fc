"""A function that writes a sweep file with the given content, and reads it."""

import pytest
import yaml

from lmfast.sweeps.specification import read_specification


@pytest.fixture
def read(tmp_path):
    def reads(**content):
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_specification(path)

    return reads
