"""Writes the files that list every method's options: `python -m tests.fusion_bench_plugin.method_files`.

They are a YAML file for each method, and the types of their classes. Names, order, defaults and comments come
from the declared options. Only the comments in the files of `BY_HAND` are written by hand, and serve all
methods that declare the same option.
"""

import builtins
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from inspect import Parameter
from pathlib import Path
from typing import Any

import fusion_slerp
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import ELSEWHERE
from fusion_slerp.fusion_bench_plugin.method_classes import CLASSES, SAVING
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declaration, declared, meanings
from fusion_slerp.settings.merge_settings import MergeSettings

PACKAGE = Path(fusion_slerp.__file__).parent
YAML = PACKAGE.parent / "config/method/fusion_slerp"
STUB = PACKAGE / "fusion_bench_plugin/method_classes.pyi"
WIDTH = 120

BY_HAND = [METHODS[name] for name in ("slerp", "linear")]
"""The methods in whose files comments are kept."""

NAMES = {"Any": "typing", "Literal": "typing", "Mapping": "collections.abc", "Sequence": "collections.abc"}
"""Where the names in types come from, unless they are those of a module of options."""


def main() -> None:
    """Writes all files."""
    for method in METHODS.values():
        yaml_file(method).write_text(yaml_text(method), encoding="utf-8")
    STUB.write_text(stub_text(), encoding="utf-8")


def arguments(method: Method) -> dict[str, Parameter]:
    """The arguments of a method's class by name, without those that it passes on to FusionBench."""
    known = inspect.signature(CLASSES[method.class_name]).parameters
    return {name: each for name, each in known.items() if each.kind is not Parameter.VAR_KEYWORD}


# YAML


def yaml_file(method: Method) -> Path:
    """The file of a method."""
    return YAML / f"{method.name}_lm.yaml"


def yaml_text(method: Method) -> str:
    """The content of a method's file."""
    first = f"{method.summary[0].upper()}{method.summary[1:]}: all settings with their defaults."
    lines = [
        _read(method)[0] if method in BY_HAND else f"# {first}",
        f"_target_: fusion_slerp.{method.class_name}",
    ]
    for name in arguments(method):
        default = shown(default_of(method, name))
        lines += [_comment(method, name, default), f"{name}: {default}"]
    return "\n".join(lines) + "\n"


def default_of(method: Method, name: str) -> Any:
    """The declared default of an argument; None for the folder of the result, which no method declares."""
    known = declared(method.options) | declared(MergeSettings)
    return known[name].default if name in known else None


def shown(value: object) -> str:
    """A default as YAML."""
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value).replace("e-0", "e-")


def _comment(method: Method, name: str, default: str) -> str:
    """The lines above a key."""
    for other in BY_HAND:
        found = _read(other)[1].get(name) if _meaning(other, name) == _meaning(method, name) else None
        if found and re.search(rf"Default: {re.escape(default)}(?![\w-]|\.\d)", found):
            return found
        if found:
            return _wrapped(re.sub(r"Default: .*", f"Default: {default}.", _on_one_line(found)))
    about = declaration(declared(method.options)[name])
    needed = "Boolean" if about.check.is_switch else re.sub("^an? ", "", about.check.needed)
    needed = "" if about.is_schedule else f" {needed[0].upper()}{needed[1:]}."
    return _wrapped(f"{_as_yaml(meanings(method.options)[name])}{needed} Default: {default}.")


def _meaning(method: Method, name: str) -> str | None:
    return meanings(method.options if name in declared(method.options) else MergeSettings).get(name)


def _as_yaml(text: str) -> str:
    """A meaning, which speaks of Python, in the words of YAML."""
    text = re.sub(r'"(\w+)"', r"\1", text.replace("`", ""))
    return re.sub(r"\b(None|True|False)\b", lambda word: {"None": "null"}.get(word[0], word[0].lower()), text)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _on_one_line(comment: str) -> str:
    return " ".join(line.removeprefix("# ") for line in comment.splitlines())


def _read(method: Method) -> tuple[str, dict[str, str]]:
    """The title of a file, and the comment above each key."""
    return _comments(yaml_file(method).read_text(encoding="utf-8"))


@cache
def _comments(text: str) -> tuple[str, dict[str, str]]:
    found, comment = {}, list[str]()
    for line in text.splitlines():
        if line.startswith("#"):
            comment.append(line)
            continue
        found[line.partition(":")[0]] = "\n".join(comment)
        comment = []
    return found.pop("_target_"), found


# Types


def stub_text() -> str:
    """The content of the file of types."""
    common, saving = _typed_dicts()
    classes = [text for method in METHODS.values() for text in _class(method, saving)]
    body = [
        "class Common(TypedDict, total=False):",
        '    """The arguments of every class."""',
        "",
        *(f"    {name}: {_type(MergeSettings, name)}" for name in common),
        "",
        "class Others(Common, total=False):",
        '    """Those, and what every other class takes by position or keyword."""',
        "",
        *(f"    {name}: {kind}" for name, kind in saving.items()),
        *classes,
    ]
    head = [
        '"""The types of the classes that method_classes.py makes.',
        "",
        "Written by `make method-files`, from the declared options. A method's own arguments are described",
        "in the class of its options, all others in `MergeForCausalLM`.",
        '"""',
    ]
    return "\n".join([*head, "", *_imports(), "", *body, ""])


def _typed_dicts() -> tuple[list[str], dict[str, str]]:
    saving = {name: _type(MergeSettings, name) for name in SAVING if name in declared(MergeSettings)}
    common = [n for n in declared(MergeSettings) if n not in saving and n not in ELSEWHERE]
    return common, {"model_save_path": "str | None"} | saving


def _class(method: Method, saving: dict[str, str]) -> Iterator[str]:
    own = declared(method.options)
    given = arguments(method)
    is_positional = [name for name, each in given.items() if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
    named = [name for name in given if name in own or name in is_positional]
    yield from ("", f"class {method.class_name}(MergeForCausalLM):", _summary(method), "")
    yield from ("    def __init__(", "        self,")
    for i, name in enumerate(named):
        if i == len(is_positional):
            yield "        *,"
        kind = _type(method.options, name) if name in own else saving[name]
        default = given[name].default
        yield f"        {name}: {kind}" + ("," if default is Parameter.empty else f" = {_source(default)},")
    yield f"        **others: Unpack[{'Common' if is_positional else 'Others'}],"
    yield "    ) -> None: ..."


def _summary(method: Method) -> str:
    text = f'"""{(CLASSES[method.class_name].__doc__ or "").splitlines()[0]}'
    lines = textwrap.wrap(text, 105, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return "\n".join([*lines, '    """']) if len(lines) > 1 else f'{lines[0]}"""'


def _source(default: Any) -> str:
    return json.dumps(default) if isinstance(default, str) else repr(default)


def _type(of: type, name: str) -> str:
    return inspect.get_annotations(_owner(of, name))[name]


def _owner(of: type, name: str) -> type:
    return next(each for each in of.__mro__ if name in inspect.get_annotations(each))


def _imports() -> list[str]:
    needed: dict[str, set[str]] = {
        "typing": {"TypedDict"},
        "typing_extensions": {"Unpack"},
        "fusion_slerp.fusion_bench_plugin.merge_for_causal_lm": {"MergeForCausalLM"},
    }
    for of in (MergeSettings, *(method.options for method in METHODS.values())):
        for name in declared(of):
            for word in re.findall(r"\b[A-Za-z]\w*\b", re.sub(r'"\w*"', "", _type(of, name))):
                if not hasattr(builtins, word) and word != "None":
                    needed.setdefault(NAMES.get(word) or _home(of, name, word), set()).add(word)
    order = sorted(needed, key=lambda module: (_group(module), module))
    lines = list[str]()
    for i, module in enumerate(order):
        if i and _group(module) != _group(order[i - 1]):
            lines.append("")
        lines.append(f"from {module} import {', '.join(sorted(needed[module]))}")
    return lines


def _group(module: str) -> int:
    """Imports stand in three groups: of Python, of other packages, ours."""
    package = module.partition(".")[0]
    return 2 if package == "fusion_slerp" else package not in sys.stdlib_module_names


def _home(of: type, option: str, word: str) -> str:
    """The module that the types of an option's class come from."""
    owner = _owner(of, option)
    return owner.__module__ if hasattr(sys.modules[owner.__module__], word) else "typing"


if __name__ == "__main__":
    main()
