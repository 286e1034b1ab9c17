"""This machine, as a latency table names it: processor, instruction set, and usable cores.

The variable ``ONEDNN_MAX_CPU_ISA`` caps oneDNN's kernels to fewer instruction sets than the processor has.
Capped kernels have other latencies, so the machine then has another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# From the best downwards: (name in tables, the flags of /proc/cpuinfo, all of which are required).
_X86 = (
    ("amx", ("amx_tile", "amx_bf16")),
    ("avx512bf16", ("avx512f", "avx512bw", "avx512vl", "avx512_bf16")),
    ("avx512vnni", ("avx512f", "avx512bw", "avx512vl", "avx512_vnni")),
    ("avx512", ("avx512f", "avx512bw", "avx512vl")),
    ("avxvnni", ("avx2", "avx_vnni")),
    ("avx2", ("avx2", "fma")),
    ("sse42", ("sse4_2",)),
)
_ARM = (("sve", ("sve",)), ("dotprod", ("asimddp",)), ("neon", ("asimd",)))

# oneDNN's own steps, from the best downwards: our name, the flags that it adds, and the other steps that a
# cap at it allows. Source: src/cpu/x64/cpu_isa_traits.hpp of oneDNN (masks of cpu_isa_t, mayiuse).
_SSE, _AVX512 = ("sse41", "avx", "avx2"), ("avx512f", "avx512bw", "avx512vl", "avx512dq")
_BF16 = (*_SSE, "avx512", "avx512vnni", "avx512bf16")
_STEPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "amxfp16": (("amx_fp16",), (*_BF16, "avxvnni", "avx512fp16", "amx")),
    "amx": (("amx_tile", "amx_int8", "amx_bf16"), (*_BF16, "avxvnni", "avx512fp16")),
    "avx512fp16": (("avx512_fp16",), (*_BF16, "avxvnni")),
    "avx512bf16": (("avx512_bf16",), _BF16),
    "avx512vnni": (("avx512_vnni",), (*_SSE, "avx512")),
    "avx512": (_AVX512, _SSE),
    "avxvnniint8": (("avx_vnni_int8", "avx_ne_convert"), (*_SSE, "avxvnni")),
    "avxvnni": (("avx_vnni",), _SSE),
    "avx2": (("avx2",), _SSE),
    "avx": (("avx",), ("sse41",)),
    "sse41": (("sse4_1",), ()),
}
# Values of the variable, and the step that each caps to; oneDNN ignores case, and any other value.
_VALUES = {
    "avx512_core_amx_fp16": "amxfp16", "avx10_1_512_amx_fp16": "amxfp16",
    "avx512_core_amx": "amx", "avx10_1_512_amx": "amx",
    "avx512_core_fp16": "avx512fp16", "avx10_1_512": "avx512fp16",
    "avx512_core_bf16": "avx512bf16", "avx512_core_vnni": "avx512vnni", "avx512_core": "avx512",
    "avx2_vnni_2": "avxvnniint8", "avx2_vnni": "avxvnni", "avx2": "avx2", "avx": "avx", "sse41": "sse41",
}  # fmt: skip
CAPS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
)  # the first that is set counts; the second is its old name


@dataclass(frozen=True)
class Machine:
    """The properties of a computer that latency depends on."""

    cpu: str  # the processor's own name
    isa: str  # best instruction set that inference engines use, such as "avx512bf16"
    cores: int  # logical cores that the process may use
    system: str  # "Linux x86_64"

    @property
    def slug(self) -> str:
        """The processor's name, as part of a file name."""
        kept = re.sub(r"\(r\)|\(tm\)|processor|cpu|\d+-core|@.*", " ", self.cpu.lower())
        return re.sub(r"[^a-z0-9]+", "-", kept).strip("-") or "cpu"

    def same_kind(self, other: Machine) -> bool:
        """Return whether the latencies of one hold for the other: same processor and instruction set."""
        return (self.cpu, self.isa) == (other.cpu, other.isa)


def this_machine(*, capped: bool = True) -> Machine:
    """Return the machine that this process runs on.

    Args:
        capped: whether to return the instruction set that oneDNN may use (``ONEDNN_MAX_CPU_ISA``), as its
            engines do; False: the processor's own, as mlas and JAX use it.
    """
    info = _cpuinfo()
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        isa=capped_set(info, os.environ) if capped else instruction_set(info),
        cores=len(usable_cores()),
        system=f"{platform.system()} {platform.machine()}",
    )


def processor_key() -> str:
    """Return a part of a file name under which to cache machine code compiled for this very processor.

    Processors of one name and instruction set may still differ in what a compiler relies on: a virtual
    machine often shows the name of the family.
    """
    machine, info = this_machine(capped=False), _cpuinfo()
    identity = [info.get(key, "") for key in ("vendor_id", "cpu family", "model", "CPU part")]
    flags = sorted((info.get("flags") or info.get("Features") or "").split())
    digest = hashlib.sha256("\n".join([machine.system, *identity, *flags]).encode()).hexdigest()
    return f"{machine.slug}-{machine.isa}-{digest[:8]}"


def _cpuinfo() -> Mapping[str, str]:
    """Return the first processor's fields of /proc/cpuinfo; empty where the file does not exist."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    out: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        out[key.strip()] = value.strip()
    return out


def instruction_set(info: Mapping[str, str]) -> str:
    """Return the best instruction set of /proc/cpuinfo's fields, or the architecture's name."""
    flags = set((info.get("flags") or info.get("Features") or "").split())
    for name, needed in (*_X86, *_ARM):
        if flags.issuperset(needed):
            return name
    return platform.machine().lower() or "unknown"


def capped_set(info: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Return the best instruction set that oneDNN uses: the processor's, or a lower one under a cap.

    Args:
        info: fields of /proc/cpuinfo.
        environment: environment variables; as in oneDNN, an unknown value caps nothing.
    """
    own = instruction_set(info)
    cap = _cap(environment)
    if not cap or platform.machine().lower() not in ("x86_64", "amd64"):
        return own
    if "flags" not in info:  # not Linux: which of the two is lower is not known
        return f"{own}-{cap}"
    flags = set(info["flags"].split())
    left = _best(flags, {cap, *_STEPS[cap][1]})
    if left == _best(flags, _STEPS):
        return own
    return f"{left}capped" if left == own else left  # our names are coarser than oneDNN's steps


def _cap(environment: Mapping[str, str]) -> str:
    """Return the step that oneDNN is capped to; "" for none."""
    value = next(filter(None, map(environment.get, CAPS)), "")
    return _VALUES.get(value.lower(), "")


def _best(flags: set[str], allowed: Collection[str]) -> str:
    """Return the best allowed step of oneDNN that a processor with these flags has."""
    has = (n for n, (needed, _) in _STEPS.items() if n in allowed and flags.issuperset(needed))
    return next(has, platform.machine().lower())


def has_bf16(isa: str) -> bool:
    """Return whether an instruction set multiplies bfloat16."""
    return isa.startswith(("amx", "avx512bf16", "avx512fp16"))


def usable_cores() -> tuple[int, ...]:
    """Return the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...] | None]:
    """Keep this process, and the threads that it starts inside, on as many cores as ``threads``.

    Yields the cores, the last of those allowed (the first take most of the system's interrupts), or None
    where the system has no such call. At the end the process may use its former cores again.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = usable_cores()
    cores = before[-min(threads, len(before)) :]
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # a sandbox may forbid it
        yield None
        return
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)
