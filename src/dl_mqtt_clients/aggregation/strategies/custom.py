"""Parts of one's own, from a module outside the package: `my_rules:rule`, or from a file: `./my_rules.py:rule`."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def load(name: str, folders: Sequence[Path] = ()) -> object:
    """`module:attribute` -> the attribute. Whatever the module raises, and ImportError or AttributeError, comes out.

    A module is looked for in `folders`, then where Python looks; the current folder is not searched unless it is named,
    in `folders` or as a path (`./my_rules.py:rule`). The operator's configuration names it: it may run any code.
    """
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise ImportError(f"expected module:attribute. Received: {name!r}")
    found: object = getattr(_module(module, folders), attribute)
    return found


def _module(module: str, folders: Sequence[Path]) -> ModuleType:
    if "/" in module or module.endswith(".py"):
        return _from_file(Path(module))
    files = [folder.joinpath(*module.split(".")).with_suffix(".py") for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    return importlib.import_module(module) if file is None else _from_file(file)


def _from_file(file: Path) -> ModuleType:
    path = file.resolve()
    alias = f"fedlearn_rules_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"  # two may have one name
    spec = importlib.util.spec_from_file_location(alias, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"expected a Python file. Received: {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return module
