"""Devices and precisions: what "auto" takes, and what is said of those that are not there."""

import pytest
import torch

from napari_transunet.errors import InputError
from napari_transunet.inference import devices
from napari_transunet.inference.devices import (
    available_devices,
    is_out_of_memory,
    resolve_device,
    resolve_precision,
)

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with nothing but a plain CPU; tests add to it."""
    monkeypatch.setattr(devices, "_cuda_count", lambda: 0)
    monkeypatch.setattr(devices, "_has_mps", lambda: False)
    for question in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, question, lambda: False, raising=False)
    return monkeypatch


def with_gpus(machine: pytest.MonkeyPatch, count: int, capability: tuple[int, int] = (8, 0)) -> None:
    machine.setattr(devices, "_cuda_count", lambda: count)
    machine.setattr(torch.cuda, "get_device_name", lambda index: f"GPU of kind {index}")
    machine.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def test_auto_is_the_cpu_where_there_is_nothing_else(machine: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == CPU
    assert [device.name for device in available_devices()] == ["cpu"]
    assert available_devices()[0].label.startswith("CPU – ")


def test_auto_prefers_cuda_then_mps(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(devices, "_has_mps", lambda: True)
    assert resolve_device("auto") == MPS
    with_gpus(machine, 2)
    assert resolve_device("auto") == CUDA
    assert [device.name for device in available_devices()] == ["cuda:0", "cuda:1", "mps", "cpu"]
    assert "GPU of kind 1" in available_devices()[1].label


def test_devices_by_name(machine: pytest.MonkeyPatch) -> None:
    with_gpus(machine, 2)
    assert resolve_device("cpu") == CPU
    assert resolve_device(torch.device("cpu")) == CPU
    assert resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="no cuda:2; the CUDA GPUs here are cuda:0 to cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_that_is_absent_is_said(machine: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} was asked for, but PyTorch finds no CUDA GPU"):
        resolve_device(name)


def test_mps_that_is_absent_is_said(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no Apple GPU"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:1x", "", "CPU"])
def test_names_that_are_none(machine: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(InputError, match="choose one of auto, cpu, cuda, cuda:N, mps"):
        resolve_device(name)


def test_auto_precision_is_bfloat16_only_where_it_is_fast(machine: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", CPU) == torch.float32
    assert resolve_precision("auto", MPS) == torch.float32
    with_gpus(machine, 1, capability=(7, 5))
    assert resolve_precision("auto", CUDA) == torch.float32
    with_gpus(machine, 1, capability=(9, 0))
    assert resolve_precision("auto", CUDA) == torch.bfloat16
    machine.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert resolve_precision("auto", CPU) == torch.bfloat16


def test_a_torch_that_cannot_tell_means_float32(machine: pytest.MonkeyPatch) -> None:
    for question in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        machine.delattr(torch.cpu, question, raising=False)
    assert resolve_precision("auto", CPU) == torch.float32


def test_precisions_by_name() -> None:
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16
    assert resolve_precision(torch.float32, CPU) == torch.float32
    assert resolve_precision("float16", CUDA) == torch.float16
    with pytest.raises(InputError, match="float16 is for GPUs"):
        resolve_precision("float16", CPU)
    with pytest.raises(InputError, match="choose one of auto, float32, bfloat16, float16"):
        resolve_precision("double", CPU)


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))
