"""A Hydra plugin: the configs of fusion_slerp and of FusionBench are found from every folder.

Hydra loads this module in every program that uses Hydra. So it imports next to nothing, does nothing
at import, and leaves programs alone that have loaded neither fusion_bench nor fusion_slerp.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

PROVIDER = "fusion_slerp"
# The plugin and the package lie next to each other, in site-packages as in the repository.
PACKAGE = Path(__file__).resolve().parents[2] / "fusion_slerp"
DEMO = PACKAGE / "demo"


class FusionSlerpSearchPath(SearchPathPlugin):
    """Adds two folders to the search path and offers the resolver `fusion_slerp.demo`.

    The order, first match wins: the program's own folder (`./config` of the user), then ours, then
    FusionBench's. Where the program's own folder is FusionBench's, ours still comes before it: FusionBench's
    `_get_started/llm_slerp` cannot finish, ours can.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if not {"fusion_bench", "fusion_slerp"} & sys.modules.keys():
            return
        OmegaConf.register_new_resolver("fusion_slerp.demo", demo_path, replace=True)
        ours, theirs = own_config_dir(), host_config_dir()
        present = {_local_dir(element.path): element.path for element in search_path.get_path()}
        if ours not in present:
            if theirs in present:
                search_path.prepend(PROVIDER, f"file://{ours}", SearchPathQuery(None, present[theirs]))
            else:
                search_path.append(PROVIDER, f"file://{ours}")
        if theirs is not None and theirs not in present:
            search_path.append(PROVIDER, f"file://{theirs}")


def own_config_dir() -> Path:
    """Returns the folder of our configs: inside an installed package, next to it in the repository."""
    inside = PACKAGE / "config"
    return inside if inside.is_dir() else PACKAGE.parent / "config"


def host_config_dir() -> Path | None:
    """Returns the folder of fusion_bench's own configs without importing it; None if there is none."""
    # A loaded fusion_bench has no __spec__ (it swaps its module for a lazy one), which find_spec refuses.
    # For a package that is not loaded, find_spec gives its folder without executing it.
    package = sys.modules.get("fusion_bench") or find_spec("fusion_bench")
    folders = getattr(package, "__path__", None) or getattr(package, "submodule_search_locations", None)
    if not folders:
        return None
    # "config" is the name in FusionBench's source tree. In site-packages it would be somebody else's.
    candidates = [Path(folders[0]).resolve().parent / name for name in ("fusion_bench_config", "config")]
    return next((folder for folder in candidates if folder.is_dir()), None)


def demo_path(name: str) -> str:
    """Returns the absolute path of a model or text that ships with fusion_slerp.

    Args:
        name: A name under `fusion_slerp/demo/`: `plays`, or `texts/plays.txt`.

    Raises:
        SettingsError: There is no such file or folder. The message lists those that exist.
    """
    path = DEMO / name
    if path.exists():
        return str(path)
    from fusion_slerp.errors import Problem, SettingsError, nearest

    known = _demo_names()
    raise Problem(
        SettingsError,
        f"fusion_slerp ships no demo file or folder {name!r}{nearest(name, known)}",
        (("looked in", DEMO), ("exist", ", ".join(known) or "none")),
        f"${{fusion_slerp.demo:{known[0]}}}" if known else "install fusion_slerp again, nothing is there",
    ).error()


def _demo_names() -> list[str]:
    """Returns what a user may name: the folders, and the files of those that hold no model."""
    folders = sorted(p for p in DEMO.glob("[!_.]*") if p.is_dir())
    loose = [file for p in folders if not (p / "config.json").exists() for file in sorted(p.iterdir())]
    return [p.relative_to(DEMO).as_posix() for p in (*folders, *loose)]


def _local_dir(path: str) -> Path | None:
    if "://" in path and not path.startswith("file://"):
        return None
    return Path(path.removeprefix("file://")).resolve()
