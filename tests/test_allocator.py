"""The allocator is changed on Linux with a CPU alone."""

import platform

import jax
import pytest

from experiments.command_line import allocator


@pytest.fixture
def calls(monkeypatch):
  """The C library's calls, not made."""
  made = []

  class Function:
    def __init__(self, name):
      self.name = name

    def __call__(self, *arguments):
      made.append((self.name, *arguments))
      return 5 * 2**21 + 17 if self.name == "sbrk" else 0

  class Library:
    def __getattr__(self, name):
      function = Function(name)
      setattr(self, name, function)
      return function

  monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Library())
  monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
  return made


def _platforms(monkeypatch, value):
  monkeypatch.setattr(
    allocator, "jax", type("Jax", (), {"config": type("Config", (), {"jax_platforms": value})})
  )


@pytest.mark.parametrize("platforms", ["cpu", "cpu,cuda"])
def test_pages_are_kept_on_a_cpu(monkeypatch, calls, platforms):
  _platforms(monkeypatch, platforms)
  assert allocator.keep_pages()
  assert {call[1] for call in calls if call[0] == "mallopt"} == {-1, -2, -4, -8}
  # A heap that did not grow is not advised of anything.
  assert not [call for call in calls if call[0] == "madvise"]


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu"])
def test_accelerators_keep_the_allocator_as_it_is(monkeypatch, calls, platforms):
  _platforms(monkeypatch, platforms)
  assert not allocator.keep_pages()
  assert not calls


def test_an_installed_plugin_is_an_accelerator(monkeypatch, calls):
  _platforms(monkeypatch, None)
  monkeypatch.setattr(allocator.importlib.metadata, "entry_points", lambda group: [group])
  assert not allocator.keep_pages()
  assert not calls


def test_other_c_libraries_are_left_alone(monkeypatch, calls):
  _platforms(monkeypatch, "cpu")
  monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
  assert not allocator.keep_pages()
  assert not calls


def test_asking_does_not_start_jax(monkeypatch):
  monkeypatch.setattr(jax, "devices", lambda: pytest.fail("started"))
  monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("started"))
  allocator.computes_on_cpu()
