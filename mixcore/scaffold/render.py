"""Renders the template of a plugin distribution into a new folder.

The template has a folder `shared` and one per role. A file of either becomes a file of the distribution; `words.toml`
of a role says what stands in the shared ones.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template

from packaging.utils import canonicalize_name
from packaging.version import Version

from mixcore.discovery.catalogue import distribution_of, host_version, installed, published
from mixcore.errors import ConfigError, PluginConflictError, StorageError
from mixcore.hooks.roles import ROLES

__all__ = ["check_name", "render"]

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST = 40
SUFFIX = ".tmpl"
"""Ends every file of the template, so that no tool takes one for what it will be."""
IMPORTED = frozenset({"Generator", "Mix", "Targets", "Task", "Tensor"})
"""Names that the template's modules import; a class called so would shadow one, and is called `MixMixer`."""


def check_name(name: str) -> None:
    """Refuse a name that no new plugin can have.

    ConfigError where it is not spelt as a plugin's name, PluginConflictError where a plugin has it already.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise ConfigError(
            f'"{name}" cannot be the name of a plugin; expected lower-case letters, digits and single underscores '
            f"between them, a letter first, at most {LONGEST}: mixcore new {_spelt(name)}"
        )
    claims, distribution = installed(), distribution_of(name)
    if name in claims:
        raise PluginConflictError(f'"{name}" is taken by {claims[name][0].label}; choose another name')
    taken = {canonicalize_name(entry.distribution) for entries in claims.values() for entry in entries}
    if distribution in taken | {canonicalize_name(found) for found in published()}:
        raise PluginConflictError(f"there is a distribution {distribution} already; choose another name")


def _spelt(name: str) -> str:
    """The nearest name that could be one."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    spelt = "_".join(words)[:LONGEST].rstrip("_")
    return spelt if NAME.fullmatch(spelt) else "my_mix"


def render(name: str, parent: Path, role: str = "mix") -> Path:
    """Write the distribution of a new plugin into `parent` and return its folder, `mixcore-plugin-<name>`.

    `role` is one of :data:`mixcore.hooks.roles.TEMPLATE_ROLES`. Raises as :func:`check_name` does, ConfigError where
    the folder exists (it is left as it is), and StorageError where it cannot be made.
    """
    check_name(name)
    words = _words(name, role)
    target = parent / words["distribution"]
    try:
        target.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{target} exists; name another folder with --dir, or remove it") from error
    except OSError as error:
        raise StorageError(f"{target} cannot be made: {error.strerror}; name another folder with --dir") from error
    for path, text in (*_templates(_template("shared")), *_templates(_template(role))):
        written = target / _renamed(path, words)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(Template(text).substitute(words), encoding="utf-8")
    return target


def _template(folder: str) -> Traversable:
    return files("mixcore.scaffold") / "template" / folder


def _words(name: str, role: str) -> dict[str, str]:
    """What stands for the words of the template: those of every distribution, then those of the role."""
    title = _class_name(name.split("_"))
    host = Version(host_version())
    words = {
        "name": name,
        "title": title + _class_name(ROLES[role].title.split()) if title in IMPORTED else title,
        "module": f"mixcore_plugin_{name}",
        "distribution": distribution_of(name),
        "host": f">={host.major}.{host.minor},<{host.major}.{host.minor + 1}",
    }
    own = tomllib.loads((_template(role) / "words.toml").read_text(encoding="utf-8"))
    words.update({word: Template(text).substitute(words) for word, text in own.items()})
    summary = words["summary"]
    return {**words, "sentence": summary[0].lower() + summary[1:]}


def _class_name(words: Iterable[str]) -> str:
    return "".join(word.capitalize() for word in words)


def _renamed(path: PurePosixPath, words: Mapping[str, str]) -> Path:
    """A file's place in the distribution: `package` is the module, wherever it stands in the path."""
    return Path(*(part.removesuffix(SUFFIX).replace("package", words["module"]) for part in path.parts))


def _templates(folder: Traversable, *place: str) -> Iterator[tuple[PurePosixPath, str]]:
    """Place in the template and text of every file."""
    for entry in sorted(folder.iterdir(), key=lambda found: found.name):
        if entry.is_dir():
            yield from _templates(entry, *place, entry.name)
        elif entry.name.endswith(SUFFIX):
            yield PurePosixPath(*place, entry.name), entry.read_text(encoding="utf-8")
