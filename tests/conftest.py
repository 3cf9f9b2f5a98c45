"""Eight fake devices for every test, set before jax is imported."""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# The runtime's thread pool must be larger than the number of devices, or queued collectives deadlock.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

MOST_MAPS = 20_000
ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache")))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """Real data and teacher weights beside the checkout, where there are any."""
  folder = ROOT.parent / "shared" / "data"
  if not folder.is_dir():
    pytest.skip("no ../shared/data beside the checkout: real data and teacher weights are absent")
  return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> pathlib.Path:
  """A data directory for all tests that read the digits: they are prepared in it once."""
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def _few_memory_maps():
  """Lets compiled programs go after a file of tests, before they are too many for one process.

  Each keeps some memory mapped, and Linux allows a process 65,530 maps: the program loaded next crashes it.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
    jax.clear_caches()
    gc.collect()
