"""Any image backbone of timm. timm is imported only when one is built."""

import difflib
from typing import Any

from torch import Tensor

from attacks.errors import UserError
from models.embedder import Trunk
from models.spec import ModelSpec

# Weights come in by the specification's source alone, whose digest is checked; the rest is its own fields.
_NOT_OPTIONS = {
    **dict.fromkeys(("checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir"), "weights"),
    **{"num_classes": "head and dim", "in_chans": "input.channels"},
}


def build(spec: ModelSpec) -> Trunk:
    """Pooled features of `timm/<name>`; `options` go to `timm.create_model` (`img_size`, ...)."""
    timm = _timm()
    name = spec.arch.removeprefix("timm/")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UserError(f"{spec.name}: timm {timm.__version__} has no model {name!r}{hint}")
    for option in spec.options.keys() & _NOT_OPTIONS.keys():
        raise UserError(f"{spec.name}: options.{option}: leave it out; {_NOT_OPTIONS[option]} says it.")
    try:
        network = _create(spec, pretrained=False)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"{spec.name}: options: timm cannot build {name} ({error}).") from error
    return Trunk(network, _width(network), heads=_heads(network))


def pretrained(spec: ModelSpec) -> dict[str, Tensor]:
    """The weights that timm knows for this network, downloaded; UserError where they cannot be had."""
    try:
        return _create(spec, pretrained=True).state_dict()
    # For want of a network or of weights, timm and the hub's client raise a dozen unrelated classes.
    except Exception as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = spec.arch.removeprefix("timm/")
        raise UserError(
            f"timm's weights of {name} could not be had ({said}); give a file by --init."
        ) from error


def known_weights(arch: str) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """The name of timm's weights for `timm/<name>`, and the mean and deviation they expect.

    UserError where timm has none.
    """
    config = _timm().get_pretrained_cfg(arch.removeprefix("timm/"), allow_unregistered=True)
    if config is None or not config.has_weights:
        raise UserError(
            f"timm has no pretrained weights of {arch.removeprefix('timm/')}; leave --pretrained out."
        )
    return f"timm {config.architecture}.{config.tag}".rstrip("."), tuple(config.mean), tuple(config.std)


def _create(spec: ModelSpec, *, pretrained: bool) -> Any:
    options: dict[str, Any] = {"num_classes": 0, "in_chans": spec.input.channels, **spec.options}
    return _timm().create_model(spec.arch.removeprefix("timm/"), pretrained=pretrained, **options)


def _timm() -> Any:
    try:
        import timm
    # A release of timm that does not fit this torch fails in ways other than ImportError.
    except Exception as error:
        raise UserError(f"timm cannot be imported ({error}); reinstall it.") from error
    return timm


def _width(network: Any) -> int:
    # Some networks (MobileNetV3) widen between their last stage and the pooled output.
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def _heads(network: Any) -> tuple[str, ...]:
    named = network.pretrained_cfg.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)
