"""Gives a loaded shared library a second name that only this process knows.

The ONNX parser of TensorRT for RTX opens ``libtensorrt_rtx.so`` as soon as a graph has a plugin, and ends
the process with ``std::terminate`` if the linker does not find this file. NVIDIA's Python package has
only ``libtensorrt_rtx.so.1``. A symbolic link would need write access to the package's folder. Instead, the
process loads an empty library with the missing name, which depends on the installed library. It is a
temporary file and is deleted at once.
"""

import ctypes
import struct
import tempfile

# Of ELF, for little-endian x86-64: https://refspecs.linuxfoundation.org/elf/elf.pdf
_HEADER, _SEGMENT, _ENTRY, _SYMBOL = 64, 56, 16, 24  # bytes
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE = 6
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = (
    1,
    4,
    5,
    6,
    10,
    11,
    14,
)


def preload_alias(name: str, loaded: str) -> None:
    """Let later loads of the library ``name`` in this process find the library ``loaded``.

    Does nothing if the linker finds ``name`` by itself. ``loaded`` must be in the process already.
    """
    try:
        ctypes.CDLL(name)
    except OSError:
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(empty_library(name, needed=loaded))
            file.flush()
            ctypes.CDLL(file.name)


def empty_library(name: str, needed: str) -> bytes:
    """Return a shared library without code, named ``name``, that depends on ``needed``."""
    strings = b"\0" + name.encode() + b"\0" + needed.encode() + b"\0"
    entries, segments = 8, 3
    dynamic = _HEADER + segments * _SEGMENT
    string_table = dynamic + entries * _ENTRY
    symbol_table = string_table + -(-len(strings) // 8) * 8
    hash_table = symbol_table + _SYMBOL
    end = hash_table + 16

    def segment(kind: int, start: int, size: int, alignment: int) -> bytes:
        numbers = (kind, _READ_WRITE, start, start, start, size, size, alignment)
        return struct.pack("<2I6Q", *numbers)

    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    shared_object, x86_64, version = 3, 62, 1
    numbers = (
        shared_object,
        x86_64,
        version,
        0,
        _HEADER,
        0,
        0,
        _HEADER,
        _SEGMENT,
        segments,
        0,
        0,
        0,
    )
    table = [
        (_DT_SONAME, 1),
        (_DT_NEEDED, 1 + len(name.encode()) + 1),
        (_DT_STRTAB, string_table),
        (_DT_STRSZ, len(strings)),
        (_DT_SYMTAB, symbol_table),
        (_DT_SYMENT, _SYMBOL),
        (_DT_HASH, hash_table),
        (0, 0),
    ]
    return b"".join(
        [
            identity,
            struct.pack("<2HI3QI6H", *numbers),
            segment(_PT_LOAD, 0, end, 4096),
            segment(_PT_DYNAMIC, dynamic, entries * _ENTRY, 8),
            segment(_PT_GNU_STACK, 0, 0, 16),  # without it the loader makes the stack executable
            *(struct.pack("<2Q", *entry) for entry in table),
            strings.ljust(symbol_table - string_table, b"\0"),
            bytes(_SYMBOL),  # every table begins with this null symbol
            struct.pack("<4I", 1, 1, 0, 0),  # one bucket, one entry in its chain
        ]
    )
