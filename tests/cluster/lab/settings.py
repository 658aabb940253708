"""This machine's settings of apt, pip and certificates: both work in nodes and in image builds as they do here."""

import configparser
import os
import shutil
from pathlib import Path
from typing import Final

from .shell import works

CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_KEPT: Final = {"PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"}
_BUNDLES: Final = {"SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}


def environment() -> dict[str, str]:
    """Environment variables that package clients read."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.upper().endswith("_PROXY")}
    return kept | dict.fromkeys(sorted(_BUNDLES & set(os.environ)), CERTIFICATES)


def apt_files() -> list[Path]:
    """What somebody, not a package, wrote about downloads."""
    files = sorted(Path("/etc/apt/apt.conf.d").iterdir())
    return [file for file in files if "Acquire" in file.read_text(encoding="utf-8") and not works("dpkg", "-S", file)]


def apt_sources() -> list[Path]:
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").iterdir())]
    return [file for file in files if file.suffix in {".list", ".sources"} and file.is_file() and file.stat().st_size]


def copy_into(tree: Path) -> None:
    own = Path("/usr/local/share/ca-certificates")
    if own.exists():
        shutil.copytree(own, tree / own.relative_to("/"), dirs_exist_ok=True)
    for file in (CERTIFICATES, "/etc/resolv.conf"):
        shutil.copyfile(file, tree / file.removeprefix("/"))
    for file in apt_files():
        shutil.copyfile(file, tree / "etc/apt/apt.conf.d" / file.name)
    with (tree / "etc/pip.conf").open("w", encoding="utf-8") as file:
        _pip_settings(tree).write(file)


def _pip_settings(tree: Path) -> configparser.RawConfigParser:
    """Those of this machine, less what names files that are not in `tree`."""
    pip = configparser.RawConfigParser()
    pip.read(["/etc/xdg/pip/pip.conf", "/etc/pip.conf", Path.home() / ".config/pip/pip.conf"])
    for section in pip.sections():
        for name, value in pip.items(section):
            absent = value.startswith("/") and not (tree / value.removeprefix("/")).exists()
            if absent or "file:" in value:
                pip.remove_option(section, name)
    return pip
