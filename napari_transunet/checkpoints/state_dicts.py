"""The state dict in what a training script stored: under which names it lies, and what stands before its keys."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from napari_transunet.errors import CheckpointError, printable, some

_Value = TypeVar("_Value")

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Names under which training scripts put the state dict, alone or in one another."""

PREFIXES = ("module.", "_orig_mod.", "net.", "model.")
"""What DataParallel, `torch.compile` and wrapping modules put before every key, in any order and number."""

AVERAGED = (
    "model_ema",
    "ema",
    "ema_model",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema_state_dict",
    "averaged_model",
    "swa_model",
)
"""Names under which training scripts keep averaged weights beside those of the last step."""

_MAX_DEPTH = 8


def unwrapped(
    loaded: object, name: str, weights: str | None
) -> tuple[dict[str, object], tuple[str, ...], tuple[str, ...]]:
    """The innermost state dict, the names it was wrapped in, and the names of others of the same network."""
    found, levels = _innermost(loaded)
    if not _is_state(found) and isinstance(found, Mapping):
        # A file may hold averaged weights alone.
        alone = next((key for key in AVERAGED if isinstance(found.get(key), Mapping)), None)
        if alone is not None:
            levels.append((found, alone))
            found, more = _innermost(found[alone])
            levels += more
    if not _is_state(found):
        held = (
            f"a dict with {some(found) or 'nothing in it'}" if isinstance(found, Mapping) else kind_of(found)
        )
        raise CheckpointError(f"{name} holds no state dict but {held}.")
    others = _others(levels, found)
    wrappers = [key for _, key in levels]
    if weights is not None and weights not in wrappers:
        averaged = [key for key in (*wrappers, *others) if key in AVERAGED or "ema" in key.lower()]
        chosen = next((key for key in others if key == weights), None)
        if chosen is None and weights == "ema" and averaged:
            chosen = averaged[0]
        if chosen is None:
            there = some([*wrappers, *others], 8) or "a single set"
            raise CheckpointError(f"{name} holds no weights called {printable(weights)}; it holds {there}.")
        if chosen in others:
            own = {bare(key) for key in found}
            depth = next(at for at, (level, _) in enumerate(levels) if chosen in level)
            others = {levels[depth][1]: found, **{key: one for key, one in others.items() if key != chosen}}
            inner, _ = _innermost(levels[depth][0][chosen], inside=True)
            # Averaging counts its steps beside the weights.
            found = {key: value for key, value in inner.items() if bare(key) in own}
            wrappers = [*wrappers[:depth], chosen]
    if not all(isinstance(key, str) for key in found):
        raise CheckpointError(f"{name} holds no state dict: its keys are not all names.")
    return dict(found), tuple(wrappers), tuple(others)


def _innermost(loaded: Any, *, inside: bool = False) -> tuple[Any, list[tuple[Mapping[Any, Any], str]]]:
    """What lies innermost under the usual names, and on the way there each dict with the name that was followed."""
    names = (*WRAPPERS, "module", "shadow") if inside else WRAPPERS
    levels: list[tuple[Mapping[Any, Any], str]] = []
    while isinstance(loaded, Mapping) and len(levels) < _MAX_DEPTH:
        inner = next((key for key in names if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        levels.append((loaded, inner))
        loaded = loaded[inner]
    return loaded, levels


def _is_state(found: object) -> bool:
    return isinstance(found, Mapping) and any(isinstance(value, Tensor) for value in found.values())


def _others(levels: list[tuple[Mapping[Any, Any], str]], found: Mapping[Any, Any]) -> dict[str, Any]:
    """Name → state dict for what lies beside the one found and names most of the same tensors."""
    own = {bare(key) for key in found if isinstance(key, str)}
    others: dict[str, Any] = {}
    for level, followed in levels:
        for key, value in level.items():
            if key == followed or not isinstance(key, str) or not isinstance(value, Mapping):
                continue
            inner, _ = _innermost(value, inside=True)
            if _is_state(inner):
                names = {bare(one) for one in inner if isinstance(one, str)}
                if 2 * len(names & own) > len(own):
                    others.setdefault(key, inner)
    return others


def without_prefixes(found: Mapping[str, _Value], name: str) -> tuple[dict[str, _Value], tuple[str, ...]]:
    """A state dict without what stands before its keys, and what that was."""
    clean: dict[str, _Value] = {}
    removed: dict[str, None] = {}
    for key, value in found.items():
        own = bare(key)
        if own in clean:
            raise CheckpointError(f"{name} holds {printable(own)} twice, under different prefixes.")
        if own != key:
            removed[key[: len(key) - len(own)]] = None
        clean[own] = value
    return clean, tuple(removed)[:_MAX_DEPTH]


def bare(key: str) -> str:
    """A key without any of the `PREFIXES`."""
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def kind_of(value: object) -> str:
    """What stands where something else belongs, for a sentence."""
    return f"a {type(value).__name__}"
