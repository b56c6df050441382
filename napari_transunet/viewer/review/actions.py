"""All that can be done in the dock, once: name, key, and what it does in words. Keys, tooltips and help follow it."""

from collections.abc import Mapping
from types import MappingProxyType

from napari_transunet.viewer.widgets.keys import Action


def _table() -> dict[str, Action]:
    review, organs, correct, look = "Review", "Organs", "Correct", "Look and measure"
    return {
        "next": Action(
            "Next slice to check",
            "N",
            "Go to the unreviewed slice that is expected to need most correction.",
            review,
        ),
        "reviewed": Action(
            "Mark reviewed",
            "K",
            "Mark this slice as reviewed and go to the next one, in the order used last.",
            review,
        ),
        "unmark": Action(
            "Mark or unmark",
            "Shift+K",
            "Mark this slice as reviewed or take the mark back; stay here.",
            review,
        ),
        "conflict": Action(
            "Next disagreement",
            "J",
            "Go to the next slice where the last run disagrees with your edits.",
            review,
        ),
        "take_slice": Action(
            "Use network's labels here",
            "Shift+J",
            "Give up your edits in this slice where the last run disagrees.",
            review,
        ),
        "take_all": Action(
            "Use network's labels everywhere",
            "",
            "Give up your edits in all slices where the last run disagrees.",
            review,
        ),
        "lock": Action(
            "Lock organ",
            "W",
            "Lock or unlock the organ that the brush paints: a locked organ does not change.",
            organs,
        ),
        "hide": Action("Hide organ", "Shift+H", "Hide or show the organ that the brush paints.", organs),
        "only": Action("Show only this organ", "H", "Hide all other organs, or show all again.", organs),
        **{
            f"organ_{n}": Action(f"Organ {n}", f"Alt+{n}", f"Paint with organ {n} of the list.", organs)
            for n in range(1, 10)
        },
        "strokes": Action(
            "Fix from strokes",
            "Shift+X",
            "Then paint a few strokes of the organ, or erase some: the whole structure around them follows, in 3D.",
            correct,
        ),
        "largest": Action(
            "Keep largest", "Shift+Q", "Remove all but the largest parts of the organ.", correct
        ),
        "clicked": Action(
            "Keep the part I click",
            "Q",
            "Then click in the image: all other parts of that organ are removed.",
            correct,
        ),
        "islands": Action("Remove islands", "Shift+O", "Remove parts that are smaller than this.", correct),
        "holes": Action("Fill holes", "Shift+F", "Fill what the organ encloses.", correct),
        "smooth": Action("Smooth", "Shift+S", "Smooth the outline; the organ keeps its volume.", correct),
        "grow": Action("Grow", "Shift+G", "Grow the organ into background by this distance.", correct),
        "shrink": Action("Shrink", "Shift+D", "Take a rim of this thickness off the organ.", correct),
        "interpolate": Action(
            "Interpolate",
            "Shift+I",
            "Fill the slices between those that you reviewed, or corrected by hand, along what the image shows.",
            correct,
        ),
        "interpolate_next": Action(
            "Next slice to interpolate from",
            "Alt+I",
            "Go to the slice from which interpolating gains most; correct it and mark it reviewed.",
            correct,
        ),
        "replace": Action("Replace with", "Shift+R", "Make the organ another one, or background.", correct),
        "above": Action(
            "Copy from slice above (head)",
            ".",
            "Copy the organ from the next slice towards the head into this one.",
            correct,
        ),
        "below": Action(
            "Copy from slice below (feet)",
            ",",
            "Copy the organ from the next slice towards the feet into this one.",
            correct,
        ),
        "range": Action(
            "Paint only within a range",
            "G",
            "Let the brush change only voxels whose values lie in the range.",
            correct,
        ),
        "learn_next": Action(
            "Next slice to learn from",
            "Shift+N",
            "Go to the slice that shows most of what no reviewed slice shows nearby; correct it and mark it reviewed.",
            correct,
        ),
        "learn": Action(
            "Learn from my corrections",
            "",
            "Let the chosen checkpoint learn from the reviewed slices; you can go on working.",
            correct,
        ),
        "uncertainty": Action(
            "Show uncertainty", "U", "Show or hide how unsure the network was of every voxel.", look
        ),
        "attention": Action(
            "Show attention", "Shift+U", "Then click in the image: what that patch attends to is shown.", look
        ),
        "measure": Action("Measure", "Shift+M", "Measure all organs.", look),
        "compare": Action("Compare", "Shift+C", "Compare with the labels layer that is chosen.", look),
        "export": Action("Export…", "Shift+E", "Write the labels in one or several formats.", look),
        "help": Action("Keys and help", "F1", "List all actions and their keys.", look),
    }


ACTIONS: Mapping[str, Action] = MappingProxyType(_table())
"""Name -> action."""
