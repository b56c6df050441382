"""Which classes a network that learns from corrections has afterwards, and what label values mean to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_transunet.errors import InputError
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.volumes.labels import organ_key

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard


@dataclass(frozen=True)
class ClassChanges:
    """Which classes the result has, and what label values mean.

    Attributes
    ----------
    of_value : label value → class of the result; dropped organs are background
    origins : of each class of the result that of the parent, None where it is new
    names : class of the result → name
    added : the new ones among them
    dropped : names
    """

    of_value: Mapping[int, int]
    origins: tuple[int | None, ...]
    names: Mapping[int, str]
    added: Mapping[int, str]
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, card: ModelCard, new: Mapping[int, str], drop: Collection[str]) -> ClassChanges:
        """Of a card, with organs added and dropped. Raises `InputError` where that cannot be."""
        names = card.label_set().names
        by_name = {organ_key(name): value for value, name in names.items()}
        gone = set()
        for name in drop:
            if organ_key(name) not in by_name:
                raise InputError(
                    f"There is no {name!r} to drop; the checkpoint has {listed(names.values())}."
                )
            gone.add(by_name[organ_key(name)])
        kept = [value for value in range(card.num_classes) if value not in gone]
        for value, name in new.items():
            if value in range(card.num_classes):
                raise InputError(
                    f"Label {value} is {names.get(value, 'the background')!r} already; give the new organ {name!r} "
                    f"a value from {card.num_classes} on."
                )
            if not 0 < value < 1 << 16:
                raise InputError(f"A label value is from 1 to 65535, not {value}.")
            if by_name.get(organ_key(name), 0) in kept[1:]:
                raise InputError(
                    f"The checkpoint has {name!r} already; its label value is {by_name[organ_key(name)]}."
                )
            if not name.strip():
                raise InputError(f"The new organ with the label value {value} needs a name.")
        if len({organ_key(name) for name in new.values()}) < len(new):
            raise InputError("Two new organs have the same name.")
        count = len(kept) + len(new)
        if count > UNKNOWN:
            raise InputError(
                f"A network that learns from corrections has at most {UNKNOWN} classes, not {count}."
            )
        if count < 2:
            raise InputError("No organ would be left; keep one, or add one.")
        added = {len(kept) + at: name.strip() for at, name in enumerate(new.values())}
        of_value = {value: at for at, value in enumerate(kept)} | dict.fromkeys(gone, 0)
        of_value |= dict(zip(new, added, strict=True))
        return cls(
            {UNKNOWN: UNKNOWN} | of_value,
            (*kept, *(None for _ in new)),
            {at: names[value] for at, value in enumerate(kept) if value} | added,
            added,
            tuple(names[value] for value in sorted(gone)),
        )

    def vouched(self, organs: Sequence[str | int] | None) -> list[int]:
        """Classes of the organs that somebody vouches for; None: all."""
        if organs is None:
            return sorted(self.names)
        by_name = {organ_key(name): value for value, name in self.names.items()}
        found = set()
        for organ in organs:
            value = self.of_value.get(organ) if isinstance(organ, int) else by_name.get(organ_key(organ))
            if value in (None, UNKNOWN):
                raise InputError(
                    f"There is no organ {organ!r} to vouch for; there are {listed(self.names.values())}."
                )
            assert value is not None
            found.add(value)
        return sorted(found - {0})


def card_with(card: ModelCard, classes: ClassChanges) -> ModelCard:
    """The result's card: its classes, and no scores, which were those of its parent."""
    given = {label.value: label for label in card.labels}
    labels = [
        {**given[origin].model_dump(exclude_none=True), "value": value}
        for value, origin in enumerate(classes.origins)
        if origin is not None and origin in given
    ]
    labels += [{"value": value, "name": name} for value, name in classes.added.items()]
    return card.updated(num_classes=len(classes.origins), labels=labels, scores=None)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, ten at most."""
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
