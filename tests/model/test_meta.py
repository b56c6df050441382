"""Networks without memory: the names and shapes of real ones, and no initial weights worked out for them."""

import threading

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant

HYBRID = Variant("tiny hybrid", 16, 48, 96, 3, 1, hybrid=True)


class Heard(TorchFunctionMode):
    """Lists what is called."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))

    @property
    def initial(self):
        in_place = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.fill_, torch.Tensor.zero_}
        return [
            one
            for one in self.functions
            if one in in_place or getattr(one, "__module__", "") == "torch.nn.init"
        ]


def shapes(net):
    return {key: (value.shape, value.dtype) for key, value in net.state_dict().items()}


def test_names_and_shapes_are_those_of_a_real_network_without_work_for_initial_weights():
    with Heard() as usual:
        net = TransUNet(HYBRID, 5, 64)
    assert usual.initial
    with Heard() as heard, on_meta_device():
        without = TransUNet(HYBRID, 5, 64)
    assert not heard.initial
    assert shapes(without) == shapes(net)
    assert all(value.is_meta for value in without.state_dict().values())


def test_another_thread_s_networks_have_their_weights():
    made = []
    with on_meta_device():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(8, 8)))
        thread.start()
        thread.join()
    assert not made[0].weight.is_meta
    assert made[0].weight.abs().max() > 0
