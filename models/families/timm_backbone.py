"""Any image backbone of timm. timm is imported only when one is built."""

import difflib
from typing import Any

from attacks.errors import UserError
from models.embedder import Trunk
from models.spec import ModelSpec


def build(spec: ModelSpec) -> Trunk:
    """Pooled features of `timm/<name>`; `options` go to `timm.create_model` (`img_size`, ...)."""
    timm = _timm()
    name = spec.arch.removeprefix("timm/")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UserError(f"{spec.name}: timm {timm.__version__} has no model {name!r}{hint}")
    channels = spec.input.channels
    try:
        options: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **spec.options}
        network = timm.create_model(name, pretrained=False, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"{spec.name}: options: timm cannot build {name} ({error}).") from error
    return Trunk(network, _width(network), heads=_heads(network))


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
