"""Where the network runs, and in which precision."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from napari_transunet.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
PRECISIONS: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)

_BFLOAT16_CAPABILITY = (8, 0)  # CUDA's first with bfloat16 matrix units


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that is there: `name` for `Predictor(device=…)`, `label` for people."""

    name: str
    label: str


def available_devices() -> list[DeviceInfo]:
    """The devices found, the one that "auto" takes first; the CPU always last."""
    found = [
        DeviceInfo(f"cuda:{index}", f"GPU {index} – {torch.cuda.get_device_name(index)}")
        for index in range(_cuda_count())
    ]
    if _has_mps():
        found.append(DeviceInfo("mps", "Apple GPU"))
    found.append(DeviceInfo("cpu", f"CPU – {_processor_name()}, {os.cpu_count() or 1} threads"))
    return found


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is CUDA, then MPS, then the CPU.

    Raises
    ------
    InputError
        The name is none of "auto", "cpu", "cuda", "cuda:N" and "mps", or this machine has no such device.
    """
    name = str(name)
    if name == "auto":
        return torch.device(available_devices()[0].name)
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not _has_mps():
            raise InputError("There is no Apple GPU (MPS) here; choose device 'auto' or 'cpu'.")
        return torch.device("mps")
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
    if match is None:
        raise InputError(f"Unknown device {name!r}; choose one of {', '.join(DEVICES)}.")
    count, index = _cuda_count(), int(match[1] or 0)
    if not count:
        raise InputError(f"{name} was asked for, but PyTorch finds no CUDA GPU here; choose 'auto' or 'cpu'.")
    if index >= count:
        raise InputError(f"There is no {name}; the CUDA GPUs here are cuda:0 to cuda:{count - 1}.")
    return torch.device("cuda", index)


def resolve_precision(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 where the device computes it fast, else float32.

    Fast means matrix units for it: CUDA from compute capability 8.0, CPUs with AMX or AVX-512 BF16.

    Raises
    ------
    InputError
        The name is none of "auto", "float32", "bfloat16" and "float16", or it is float16 on a CPU.
    """
    name = str(name).removeprefix("torch.")
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise InputError(f"Unknown precision {name!r}; choose one of auto, {', '.join(PRECISIONS)}.")
    if name == "float16" and device.type == "cpu":
        raise InputError("float16 is for GPUs; choose 'auto', 'float32' or 'bfloat16' on the CPU.")
    return PRECISIONS[name]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BFLOAT16_CAPABILITY
    if device.type == "cpu":
        # Private to PyTorch and absent from some releases: where they cannot be asked, the answer is no.
        questions = (
            getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        )
        return any(question() for question in questions if question is not None)
    return False


def free_cached_memory(device: torch.device) -> None:
    """Give memory that PyTorch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device's memory did not suffice, whichever way PyTorch puts it."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    # CUDA raises a subclass of RuntimeError; the CPU's allocator, MPS and cuDNN raise RuntimeError itself.
    signs = ("out of memory", "can't allocate memory", "not enough memory", "cudnn_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _cuda_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _processor_name() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()
