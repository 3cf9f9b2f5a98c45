"""How commands are called: `kd-jax study` if kd_jax is installed, else `python -m experiments.study`."""

_CHECKOUT = "python -m experiments."
_INSTALLED = not __name__.startswith("experiments.")


def as_called(text: str) -> str:
  """A text that names commands as they are called in a checkout, as they are called here."""
  return text.replace(_CHECKOUT, "kd-jax ") if _INSTALLED else text


def call_of(command: str) -> tuple[str, ...]:
  """The words that call a command.

  >>> call_of("study")
  ('python', '-m', 'experiments.study')
  """
  return tuple(as_called(f"{_CHECKOUT}{command}").split())
