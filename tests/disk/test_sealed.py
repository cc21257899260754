"""A sealed file is believed only where every byte of it is as it was written."""

import json

import pytest

from owpo.disk.sealed import read_sealed, write_sealed
from owpo.errors import InputError

DATA = {"rate": 1e-06, "text": "né π", "nested": {"list": [1, 2.5, None, True]}}


@pytest.fixture
def file(tmp_path):
    write_sealed(tmp_path / "config.json", DATA)
    return tmp_path / "config.json"


def test_what_is_sealed_comes_back_and_is_plain_json(file):
    assert read_sealed(file) == DATA
    plain = json.loads(file.read_text(encoding="utf-8"))
    assert set(plain) == {*DATA, "seal"}


def test_every_flipped_bit_is_noticed(file):
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(InputError, match=r"config\.json .*restore it"):
                read_sealed(file)


def test_every_truncation_is_noticed(file):
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"config\.json .*restore it"):
            read_sealed(file)


@pytest.mark.parametrize("other", ['{"rate": 1e-06}', "[1]", "null"])
def test_a_file_without_a_seal_is_said_to_be_of_an_earlier_version(file, other):
    file.write_text(other)
    with pytest.raises(InputError, match="earlier version of owpo"):
        read_sealed(file)


def test_a_text_that_cannot_be_encoded_is_damage_too(file):
    file.write_text(file.read_text(encoding="utf-8").replace("né", "\\ud800"), encoding="utf-8")
    with pytest.raises(InputError, match="is damaged or was edited"):
        read_sealed(file)


def test_the_fix_is_the_callers(file):
    file.unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read \(No such file.*\); put it back"):
        read_sealed(file, "put it back")
