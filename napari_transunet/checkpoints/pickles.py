"""What a pickle would import, read from its opcodes without running it.

`torch.load(weights_only=True)` is the wall that nothing gets past; this looks over it first, so that a refusal
names what was blocked whatever the pickle's protocol, and so that only what a state dict needs gets that far.
"""

import mmap
import pickletools
from dataclasses import dataclass
from typing import IO, Any, cast

_TENSORS = frozenset(
    {
        "_codecs.encode",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.nn.parameter.Parameter",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
    }
)
_DTYPES = frozenset(
    f"torch.{name}"
    for name in (
        "bfloat16",
        "bool",
        "complex64",
        "complex128",
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    )
)
_STORAGE_MODULES = frozenset({"torch", "torch.cuda"})
# Old names of modules in pickles that Python 2 can read.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_STRINGS = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
MAX_INSTRUCTIONS = 2_000_000
"""A state dict has some forty a tensor; more are there to keep the reader busy."""

_EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})


@dataclass(frozen=True)
class PickleScan:
    """Dotted names that one pickle imports, and its protocol."""

    imports: tuple[str, ...]
    protocol: int

    @property
    def blocked(self) -> tuple[str, ...]:
        """The imports that no state dict needs."""
        return tuple(name for name in self.imports if not _is_harmless(name))


def scan_pickle(file: IO[bytes] | mmap.mmap) -> PickleScan:
    """Scan one pickle from where `file` stands to behind its end.

    Raises
    ------
    ValueError
        The bytes are no complete pickle. (`pickletools` may raise others of its kind for damaged text.)
    """
    imports: dict[str, None] = {}
    protocol = 0
    recent: list[str] = []  # The strings pushed last; STACK_GLOBAL takes two of them.
    memo: dict[Any, str] = {}
    last_was_string = False
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file))):
        if count >= MAX_INSTRUCTIONS:
            raise ValueError("it has more instructions than any state dict")
        name = opcode.name
        if name == "PROTO":
            protocol = int(argument or 0)
        elif name in {"GLOBAL", "INST"}:
            module, _, attribute = str(argument).partition(" ")
            imports[_dotted(module, attribute)] = None
        elif name == "STACK_GLOBAL":
            module, attribute = (["?", "?", *recent])[-2:]
            imports[_dotted(module, attribute)] = None
        elif name in _EXTENSIONS:
            imports[f"extension {argument}"] = None
        elif name in _STRINGS:
            recent = [*recent[-1:], str(argument)]
        elif name in _GETS and argument in memo:
            recent = [*recent[-1:], memo[argument]]
        elif last_was_string and name in _PUTS:
            memo[argument] = recent[-1]
        elif last_was_string and name == "MEMOIZE":
            memo[len(memo)] = recent[-1]
        if name == "MEMOIZE" and not last_was_string:
            memo[len(memo)] = "?"
        last_was_string = name in _STRINGS
    return PickleScan(tuple(imports), protocol)


def _dotted(module: str, attribute: str) -> str:
    return f"{_RENAMED.get(module, module)}.{attribute}"


def _is_harmless(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return (
        name in _TENSORS or name in _DTYPES or (module in _STORAGE_MODULES and attribute.endswith("Storage"))
    )
