"""The releases of each host that the tests run against."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from owpo.errors import InputError

RANGES = {"trl": ">=1.16,<1.17", "verl": ">=0.9.1,<0.10"}


def check_host(name: str) -> None:
    """
    Raises:
        InputError: the host is not installed, or in another release; names the command that mends it.
    """
    try:
        installed = version(name)
    except PackageNotFoundError as error:
        raise InputError(f"{name} {RANGES[name]} is not installed: pip install 'owpo[{name}]'") from error
    if installed not in SpecifierSet(RANGES[name]):
        raise InputError(
            f"owpo is made for {name} {RANGES[name]}, and {installed} is installed: pip install '{name}{RANGES[name]}'"
        )
