"""Adapters (peft) that leave the verdict alone.

A verdict rests on the vision tower, the safety modules and the word embeddings. Ordinary target names, as `q_proj` or
`all-linear`, reach all of them, and the file of an adapter may hold plain weights that go where they are named. So:
what is injected there is taken out again, weights that would change there are refused, and images are not judged
through adapters that came by another way. `let_adapters_change_verdict` lifts all three.
"""

import re

import torch
from torch import nn
from transformers.utils import logging


logger = logging.get_logger(__name__)

PEFT_PREFIX = "base_model."  # it begins the name of every weight that peft's wrapper loads
# Ways in which peft starts an adapter without changing the layer below it, as "pissa" and "olora" do.
HARMLESS_STARTS = (True, False, "gaussian", "orthogonal", "eva")


class SafetyAdapterMixin:
    """For a model whose base model has `safety_*` modules and names its `verdict_children`, in front of
    [`PreTrainedModel`]."""

    _adapters_may_change_verdict = False
    _changed_by_adapter: str | None = None

    def let_adapters_change_verdict(self):
        """Allow adapters on the vision tower, the safety modules and the word embeddings. Call it before adding one;
        it is not saved, so that no file can ask for it."""
        for module in self.modules():
            if isinstance(module, SafetyAdapterMixin):
                module._adapters_may_change_verdict = True

    @property
    def verdict_modules(self) -> str:
        """Match what the verdict rests on, as a regular expression for `exclude_modules` of an adapter's config."""
        embeddings = self.get_input_embeddings()
        # An output layer that is tied to them is the same weight under another name.
        names = [
            re.escape(name)
            for name, module in self.named_modules()
            if module is embeddings or getattr(module, "weight", None) is embeddings.weight
        ]
        children = "|".join(self.base_model.verdict_children)
        return rf"(?:(?:.*\.)?(?:{children}|safety_\w+)|{'|'.join(names)})(?:\..*)?"

    def _verdict_weights(self) -> dict[str, torch.Tensor]:
        """Return parameters that the verdict rests on, and buffers, such as a batch norm's statistics."""
        pattern, embeddings = re.compile(self.verdict_modules), self.get_input_embeddings()
        shared = set(map(id, embeddings.parameters()))  # an output layer may be tied to them
        named = [*self.named_parameters(remove_duplicate=False), *self.named_buffers(remove_duplicate=False)]
        return {name: weight for name, weight in named if pattern.fullmatch(name) or id(weight) in shared}

    def _verdict_adapters(self) -> dict[str, nn.Module]:
        """Return adapter layers on what the verdict rests on; of nested ones the outermost."""
        pattern = re.compile(self.verdict_modules)
        found: dict[str, nn.Module] = {}
        for name, module in self.named_modules():
            inner = any(name.startswith(f"{outer}.") for outer in found)
            if _is_adapter(module) and pattern.fullmatch(name) and not inner:
                found[name] = module
        return found

    def _take_out_adapters(self) -> list[str]:
        adapters = self._verdict_adapters()
        for name, module in adapters.items():
            parent, _, child = name.rpartition(".")
            base_layer = getattr(module, "get_base_layer", None)
            layer = module.original_module if base_layer is None else base_layer()
            setattr(self.get_submodule(parent), child, layer)
        return list(adapters)

    def check_adapters(self):
        """Raise `ValueError` where an adapter would change the verdict unasked."""
        if self._changed_by_adapter is not None:
            raise ValueError(self._changed_by_adapter)
        adapters = {} if self._adapters_may_change_verdict else self._verdict_adapters()
        if adapters:
            raise ValueError(
                f"Adapters lie on {_names(adapters)}, which the safety verdict rests on: give their config "
                "`exclude_modules=model.verdict_modules`, or call `model.let_adapters_change_verdict()` before."
            )

    @property
    def peft_config(self) -> dict:
        """Configs of the adapters, by name. peft sets it after injecting layers."""
        if "peft_config" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no adapter, and so no `peft_config`.")
        return self.__dict__["peft_config"]

    @peft_config.setter
    def peft_config(self, configs: dict):
        self.__dict__["peft_config"] = configs
        if configs and not self._adapters_may_change_verdict:
            self._spare_verdict(list(configs.values())[-1])  # the adapter that was injected comes last

    @peft_config.deleter
    def peft_config(self):
        del self.__dict__["peft_config"]

    def _spare_verdict(self, config):
        # With `bias="all"` peft trains every bias, whatever the adapter targets.
        for weight in self._verdict_weights().values():
            weight.requires_grad_(False)
        excluded = self.verdict_modules
        spared = self._take_out_adapters()
        if not spared:
            return
        if not any(_is_adapter(module) for module in self.modules()):
            raise ValueError(
                f"All modules that this adapter names, {_names(spared)}, are those that the safety verdict rests on: "
                "call `model.let_adapters_change_verdict()` before, if this is meant."
            )
        start = getattr(config, "init_lora_weights", True)
        if start not in HARMLESS_STARTS:
            reason = (
                f"With `init_lora_weights={start!r}` peft has already changed the weights of {_names(spared)}, which "
                "the safety verdict rests on: load the model again, and give the adapter's config "
                "`exclude_modules=model.verdict_modules`."
            )
            for module in self.modules():
                if isinstance(module, SafetyAdapterMixin):
                    module._changed_by_adapter = reason
            raise ValueError(reason)
        if hasattr(config, "exclude_modules"):  # saved with the adapter
            config.exclude_modules = _either(config.exclude_modules, excluded)
        logger.warning(
            f"The adapter was kept off {_names(spared)}: the safety verdict rests on them. Call "
            "`model.let_adapters_change_verdict()` before adding an adapter to have it there, too."
        )

    def load_adapter(self, *args, **kwargs):
        """Load as [`PreTrainedModel.load_adapter`] does. Raises `ValueError` for an adapter that would change the
        verdict, and leaves the weights as they were."""
        if self._adapters_may_change_verdict:
            return super().load_adapter(*args, **kwargs)
        # The library writes plain weights of the file wherever they are named, so they are compared afterwards.
        kept = {name: weight.detach().clone() for name, weight in self._verdict_weights().items()}
        info = super().load_adapter(*args, **kwargs)
        refused = self._take_out_adapters()
        for name, weight in self._verdict_weights().items():
            if not torch.equal(weight, kept[name]):
                weight.data.copy_(kept[name])
                refused.append(name)
        if refused:
            raise _refusal(refused)
        return info

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if prefix.startswith(PEFT_PREFIX) and not self._adapters_may_change_verdict:
            weights = self._verdict_weights().items()
            given = [
                (name, weight, state_dict[prefix + name]) for name, weight in weights if prefix + name in state_dict
            ]
            # A model on the meta device is being filled (FSDP): there is nothing yet that could change.
            refused = [
                name for name, weight, new in given if not weight.is_meta and not torch.equal(new.to(weight), weight)
            ]
            if refused:
                raise _refusal(refused)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_adapter(module: nn.Module) -> bool:
    return type(module).__module__.startswith("peft.")


def _names(names) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _refusal(names: list[str]) -> ValueError:
    return ValueError(
        f"This adapter holds weights for {_names(names)}, which the safety verdict rests on: it was refused. Call "
        "`model.let_adapters_change_verdict()` before loading it, if you trust it and mean it."
    )


def _either(given: str | list[str] | None, pattern: str) -> str:
    """Return a config's `exclude_modules` with one more pattern."""
    if not given:
        return pattern
    if not isinstance(given, str):
        given = rf"(?:.*\.)?(?:{'|'.join(map(re.escape, sorted(given)))})"
    return f"(?:{given})|{pattern}"
