"""The typed facade over hook calls: one object per plugin, its callers resolved once.

A call reaches the plain implementation of that plugin and every wrapper. Results are checked for type, shape and dtype;
their values are not read, because reading stalls a device (the contract tests check values).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy
from torch import Tensor, nn

from mixcore.errors import BrokenPluginError, HookError
from mixcore.hooks.causes import advice
from mixcore.hooks.markers import PROJECT
from mixcore.hooks.results import (
    check_mix,
    check_number,
    check_numbers,
    check_pair,
    check_saliency,
    check_scalar,
    check_sources,
    unexpected,
)
from mixcore.hooks.specs import HookSpecs
from mixcore.types import Data, Metric, Mix, Part, Targets

__all__ = ["HOOKS", "PluginCalls", "check_implementations", "has_wrapper"]

HOOKS = tuple(name for name in vars(HookSpecs) if not name.startswith("_"))
"""Every hook, in the order of the specification."""


def _is_wrapper(implementation: pluggy.HookImpl) -> bool:
    return bool(implementation.wrapper or implementation.hookwrapper)


_Caller = tuple[Callable[..., Any], Sequence[str] | None]
"""What to call, and the names of its positional arguments; None: by keywords."""


def check_implementations(plugin: object, label: str) -> None:
    """Refuse what pluggy registers in silence and fails on later: keyword-only parameters, `*args` and `**kwargs`."""
    for name, method in inspect.getmembers(type(plugin), inspect.isfunction):
        options = getattr(method, f"{PROJECT}_impl", None)
        if options is None:
            continue
        if name not in HOOKS:
            raise BrokenPluginError(
                f"{label}: {name} is marked @hookimpl but is no hook of mixcore; the hooks are {', '.join(HOOKS)}"
            )
        for parameter in inspect.signature(method).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise BrokenPluginError(
                    f"{label}: parameter {parameter.name!r} of {name} is {parameter.kind.description}, which pluggy "
                    f"cannot fill; write plain parameters, such as def {name}(self, ...)"
                )


class PluginCalls:
    """Calls into one registered plugin. `name` is its name in the configuration, `label` what messages call it.

    Wrappers of a hook are to be registered before its first call, which resolves them for good.
    """

    def __init__(self, manager: pluggy.PluginManager, plugin: object, name: str, label: str) -> None:
        self.plugin, self.name, self.label = plugin, name, label
        self._manager = manager
        self._callers: dict[str, _Caller] = {}
        self._who = {hook: f"{hook} of {label}" for hook in HOOKS}
        self._asks: dict[str, frozenset[str]] = {}
        for hook in HOOKS:
            heard = self._heard(hook)
            if any(not _is_wrapper(i) for i in heard):
                self._asks[hook] = frozenset(argument for i in heard for argument in i.argnames)

    def has(self, hook: str) -> bool:
        """Whether the plugin implements the hook itself."""
        return hook in self._asks

    def asks(self, hook: str) -> frozenset[str]:
        """Names of the arguments that a call of the hook needs: the implementation's and those of all wrappers."""
        return self._asks.get(hook, frozenset())

    def _heard(self, hook: str) -> list[pluggy.HookImpl]:
        """The implementations that a call reaches: the plugin's own and all wrappers."""
        everyone = getattr(self._manager.hook, hook).get_hookimpls()
        return [i for i in everyone if i.plugin is self.plugin or _is_wrapper(i)]

    def _caller(self, hook: str) -> _Caller:
        """Straight where nobody wraps it: pluggy's own way takes a tenth of the time of a small Mixup."""
        heard = self._heard(hook)
        if len(heard) == 1:
            found: _Caller = heard[0].function, heard[0].argnames
        else:
            others = self._manager.get_plugins() - {i.plugin for i in heard}
            found = self._manager.subset_hook_caller(hook, others), None
        self._callers[hook] = found
        return found

    def _call(self, hook: str, arguments: Mapping[str, Any]) -> Any:
        try:
            function, names = self._callers.get(hook) or self._caller(hook)
            return function(**arguments) if names is None else function(*map(arguments.__getitem__, names))
        except SystemExit as error:
            raise HookError(
                f"{hook} of {self.label}{_moment(arguments)} called for the end of the process, "
                f"SystemExit({error.code!r}); a hook raises an error instead"
            ) from error
        except Exception as error:
            error.add_note(f"in {self._who[hook]}{_moment(arguments)}")
            told = advice(error, self.plugin)
            if told is not None:
                error.add_note(told)
            raise

    def _wrong(self, hook: str, found: object, expected: str) -> HookError:
        return unexpected(self._who[hook], found, expected)

    def check(self, **arguments: Any) -> tuple[str, ...]:
        """What the plugin has to say of the task and the length of the run; empty where it has nothing."""
        if not self.has("check"):
            return ()
        sentences = self._call("check", arguments)
        if sentences is None:
            return ()
        # a string is a sequence of strings, one per letter
        if isinstance(sentences, str) or not isinstance(sentences, Sequence):
            raise self._wrong("check", sentences, "None or a list of sentences")
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise HookError(f"{self._who['check']} returned a list with more than strings in it; expected sentences")
        return tuple(sentences)

    def build_data(self) -> Data:
        """The data sets and the task."""
        data = self._call("build_data", {})
        if not isinstance(data, Data):
            raise self._wrong("build_data", data, "a mixcore.api.Data")
        return data

    def build_backbone(self, **arguments: Any) -> nn.Module:
        """The backbone: a module from images to logits."""
        network = self._call("build_backbone", arguments)
        if not isinstance(network, nn.Module):
            raise self._wrong("build_backbone", network, "a torch.nn.Module")
        return network

    def build_modules(self, **arguments: Any) -> dict[str, Part]:
        """The plugin's parts, bare modules wrapped; empty where it adds none."""
        if not self.has("build_modules"):
            return {}
        modules = self._call("build_modules", arguments)
        if not isinstance(modules, Mapping):
            raise self._wrong("build_modules", modules, "a mapping of names to modules or Parts")
        parts: dict[str, Part] = {}
        for name, module in modules.items():
            if isinstance(module, nn.Module):
                parts[name] = Part(module=module)
            elif isinstance(module, Part):
                parts[name] = module
            else:
                raise self._wrong("build_modules", module, f"a module or Part under {name!r}")
        return parts

    def choose_mixer(self, **arguments: Any) -> int | None:
        """Index into [[mix]], or None for a clean batch."""
        chosen = self._call("choose_mixer", arguments)
        if chosen is not None and not (isinstance(chosen, int) and 0 <= chosen < len(arguments["probabilities"])):
            raise self._wrong("choose_mixer", chosen, "the index of a [[mix]] table or None")
        return chosen

    def generate_mix(self, **arguments: Any) -> Mix:
        """The mix of this iteration, its shapes and dtypes checked."""
        who = self._who["generate_mix"]
        mix = check_mix(who, self._call("generate_mix", arguments))
        for view in mix.views:
            check_mix(who, view)
        return mix

    def map_saliency(self, **arguments: Any) -> Tensor:
        """The saliency map [N,h,w] of a batch, its shape, dtype and graph checked."""
        found = self._call("map_saliency", arguments)
        return check_saliency(self._who["map_saliency"], found, arguments["images"].shape[0])

    def preview_mix(self, **arguments: Any) -> Mix:
        """The mix of two at a given ratio, for pictures, its shapes and dtypes checked."""
        return check_pair(self._who["preview_mix"], self._call("preview_mix", arguments))

    def mix_labels(self, **arguments: Any) -> Targets:
        """The targets of one view, their shapes and dtypes checked."""
        targets = self._call("mix_labels", arguments)
        if not isinstance(targets, Targets):
            raise self._wrong("mix_labels", targets, "a mixcore.api.Targets")
        rows = arguments["mix"].images.shape[0]
        check_sources(self._who["mix_labels"], targets.sources, targets.weights, rows)
        return targets

    def compute_loss(self, **arguments: Any) -> Tensor:
        """The loss of one view, a scalar."""
        return check_scalar(self._who["compute_loss"], self._call("compute_loss", arguments))

    def extra_losses(self, **arguments: Any) -> dict[str, Tensor]:
        """Further scalars by name."""
        losses = self._call("extra_losses", arguments)
        if not isinstance(losses, Mapping):
            raise self._wrong("extra_losses", losses, "a mapping of names to scalars")
        return {name: check_scalar(self._who["extra_losses"], value, name) for name, value in losses.items()}

    def scalars(self, **arguments: Any) -> dict[str, float | Tensor]:
        """Numbers for the log, by name, none with a graph."""
        values = self._call("scalars", arguments)
        if not isinstance(values, Mapping):
            raise self._wrong("scalars", values, "a mapping of names to numbers")
        return {name: check_number(self._who["scalars"], value, name) for name, value in values.items()}

    def after_step(self, **arguments: Any) -> None:
        """Tell the plugin that an optimizer step took place."""
        if self.has("after_step"):
            self._call("after_step", arguments)

    def predictors(self, **arguments: Any) -> dict[str, tuple[nn.Module, nn.Module | None]]:
        """Further predictors of this plugin; empty where it has none."""
        if not self.has("predictors"):
            return {}
        found = self._call("predictors", arguments)
        if not isinstance(found, Mapping):
            raise self._wrong("predictors", found, "a mapping of names to (network, head)")
        return dict(found)

    def build_metrics(self, **arguments: Any) -> dict[str, Metric]:
        """Further metrics of this plugin by name; empty where it has none."""
        if not self.has("build_metrics"):
            return {}
        found = self._call("build_metrics", arguments)
        if not isinstance(found, Mapping):
            raise self._wrong("build_metrics", found, "a mapping of names to metrics")
        for name, metric in found.items():
            if not all(callable(getattr(metric, method, None)) for method in ("update", "compute")):
                raise self._wrong("build_metrics", metric, f"an object with update and compute under {name!r}")
        return dict(found)

    def log_record(self, **arguments: Any) -> None:
        """Tell the plugin what was recorded of an epoch."""
        if self.has("log_record"):
            self._call("log_record", arguments)

    def analyse(self, **arguments: Any) -> dict[str, Any]:
        """The numbers of one trained network, plain and finite."""
        return check_numbers(self._who["analyse"], self._call("analyse", arguments))

    def compare_runs(self, **arguments: Any) -> None:
        """Let the plugin picture several runs."""
        self._call("compare_runs", arguments)

    def launch_runs(self, **arguments: Any) -> None:
        """Have the runs of a sweep carried out."""
        self._call("launch_runs", arguments)


def _moment(arguments: Mapping[str, Any]) -> str:
    step = arguments.get("step")
    return f" at epoch {step.epoch}, iteration {step.iteration}" if step is not None else ""


def has_wrapper(manager: pluggy.PluginManager, hook: str) -> bool:
    """Whether any plugin wraps the hook to change what it does."""
    implementations = getattr(manager.hook, hook).get_hookimpls()
    return any(_is_wrapper(i) and not getattr(i.plugin, "only_watches", False) for i in implementations)
