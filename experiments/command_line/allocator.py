"""Keeps freed memory in the process: on a CPU, steps lose time to pages that they return and take again.

Each step allocates and frees some hundred megabytes of buffers. By default glibc maps the large ones anew every
time, and the kernel zeroes them 4 KiB at a time.
"""

import ctypes
import importlib.metadata
import importlib.util
import platform

import jax

_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD, _ARENA_MAX = -4, -1, -2, -8
"""Parameters of glibc's mallopt."""
_MADV_HUGEPAGE = 14
_HUGE = 2**21
_HEAP = 2**31 - _HUGE
"""By how much the heap grows at a time: reserved, not used."""


def keep_pages() -> bool:
  """Makes glibc keep freed buffers and back them with huge pages, if this process computes on a CPU alone.

  To be called before jax starts its threads. Other systems, and processes with an accelerator, are left as they
  are.

  Returns:
    Whether it did.
  """
  if platform.libc_ver()[0] != "glibc" or not computes_on_cpu():
    return False
  libc = ctypes.CDLL(None)
  for name, value in (
    (_MMAP_MAX, 0),
    (_TRIM_THRESHOLD, 2**31 - 1),
    (_ARENA_MAX, 1),
    (_TOP_PAD, _HEAP),
  ):
    libc.mallopt(name, value)
  libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
  libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
  libc.free.argtypes = [ctypes.c_void_p]
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  begin = libc.sbrk(0)
  libc.free(libc.malloc(32 * _HUGE))  # the heap grows
  begin, end = -(-begin // _HUGE) * _HUGE, libc.sbrk(0) // _HUGE * _HUGE
  if end > begin:
    libc.madvise(begin, end - begin, _MADV_HUGEPAGE)
  return True


def computes_on_cpu() -> bool:
  """Without asking jax for its devices, which would start its threads."""
  asked = jax.config.jax_platforms
  if asked:
    return asked.split(",")[0] == "cpu"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
