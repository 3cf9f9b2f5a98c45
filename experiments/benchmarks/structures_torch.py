"""What `structures` measures kd_jax beside: the same quantities in PyTorch, as its users write or install them.

Each function takes tensors and returns tensors, in the order of kd_jax's outputs.
"""

import importlib.util
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def with_gradients(function: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, ...]:
  """A value of each sentence, and the gradients of their sum."""
  leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
  values = function(*leaves)
  return values.detach(), *torch.autograd.grad(values.sum(), leaves)


def _plain_sums(state: Tensor, scores: Tensor) -> Tensor:
  """log sum_f exp(state[b, f] + scores[f, t]): the way of textbooks."""
  return torch.logsumexp(state[:, :, None] + scores, dim=1)


def _matrix_sums(state: Tensor, scores: Tensor) -> Tensor:
  """The same as a product of matrices, which takes moderate scores for granted."""
  peak = state.detach().amax(dim=1, keepdim=True)
  return torch.log(torch.exp(state - peak) @ torch.exp(scores)) + peak


def _cross_entropy(tags: Tensor, logits: Tensor) -> Tensor:
  """Of independent tags under the teacher's marginals, [B]."""
  return -(tags * torch.log_softmax(logits, dim=-1)).sum(dim=(1, 2))


def _chain(log_sums: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Callable]:
  """Linear chains, one position after the other for the whole batch."""

  def forward(unary, transition):
    states = [unary[:, 0]]
    for i in range(1, unary.shape[1]):
      states.append(log_sums(states[-1], transition) + unary[:, i])
    return states

  def log_partition(unary, transition):
    return torch.logsumexp(forward(unary, transition)[-1], dim=-1)

  @torch.no_grad()
  def marginals(unary, transition):
    before = torch.stack(forward(unary, transition), dim=1)
    states, backwards = [torch.zeros_like(unary[:, 0])], transition.T.contiguous()
    for i in range(unary.shape[1] - 1, 0, -1):
      states.append(log_sums(states[-1] + unary[:, i], backwards))
    after = torch.stack(states[::-1], dim=1)
    log_z = torch.logsumexp(before[:, -1], dim=-1)[:, None, None]
    to = (unary + after - log_z)[:, 1:, None]
    counts = torch.exp(before[:, :-1, :, None] + transition + to).sum(dim=1)
    return torch.exp(before + after - log_z), counts

  def case_1a(teacher_unary, teacher_transition, unary, transition):
    tags, counts = marginals(teacher_unary, teacher_transition)

    def loss(unary, transition):
      expected = (tags * unary).sum(dim=(1, 2)) + (counts * transition).sum(dim=(1, 2))
      return log_partition(unary, transition) - expected

    return with_gradients(loss, unary, transition)

  def case_2a(teacher_unary, teacher_transition, logits):
    tags, _ = marginals(teacher_unary, teacher_transition)
    return with_gradients(lambda x: _cross_entropy(tags, x), logits)

  def likelihood(unary, transition, tags):
    def loss(unary, transition):
      score = unary.gather(2, tags[:, :, None]).sum(dim=(1, 2))
      return log_partition(unary, transition) - score - transition[tags[:, :-1], tags[:, 1:]].sum(1)

    return with_gradients(loss, unary, transition)

  return {
    "case 1a": case_1a,
    "case 2a": case_2a,
    "chain": lambda *scores: with_gradients(log_partition, *scores),
    "likelihood": likelihood,
  }


def _segments(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
  """Span scores with O as one more label, their sums over labels [B, n, n], and which spans there are."""
  size = scores.shape[1]
  upper = torch.ones(size, size, dtype=torch.bool).triu()
  outside = torch.where(torch.eye(size, dtype=torch.bool), 0.0, -1e9).expand(*scores.shape[:3])
  spans = torch.cat([scores.masked_fill(~upper[..., None], -1e9), outside[..., None]], dim=-1)
  return spans, torch.logsumexp(spans, dim=-1), upper


def _tags_of_spans(marginals: Tensor) -> Tensor:
  """BIOES marginals [B, n, 4R+1] of segment marginals [B, n, n, R+1]."""
  diagonal = marginals.diagonal(dim1=1, dim2=2).transpose(1, 2)
  above = torch.ones(marginals.shape[1:3]).triu(diagonal=1)[..., None]
  longer = marginals[..., :-1] * above
  started = longer.cumsum(dim=1)
  inside = torch.zeros_like(diagonal[..., :-1])
  inside[:, 1:] = (started[:, :-1] * above[1:]).sum(dim=2)
  tags = torch.stack([diagonal[..., :-1], longer.sum(dim=2), inside, longer.sum(dim=1)], dim=-1)
  return torch.cat([diagonal[..., -1:], tags.flatten(2)], dim=-1)


@torch.no_grad()
def _case_4(scores: Tensor) -> tuple[Tensor]:
  """Weights of what may stand before and after each position, one position after the other."""
  spans, weights, _ = _segments(scores)
  size = scores.shape[1]
  before = torch.zeros(len(scores), 1)
  for end in range(size):
    new = torch.logsumexp(before + weights[:, : end + 1, end], dim=1, keepdim=True)
    before = torch.cat([before, new], dim=1)
  after = torch.zeros(len(scores), 1)
  for start in range(size - 1, -1, -1):
    new = torch.logsumexp(weights[:, start, start:] + after, dim=1, keepdim=True)
    after = torch.cat([new, after], dim=1)
  around = before[:, :-1, None] + after[:, None, 1:] - before[:, -1:, None]
  return (_tags_of_spans(torch.exp(spans + around[..., None])),)


def _matrix_tree(arc: Tensor) -> tuple[Tensor, ...]:
  """The determinant of the Laplacian whose first row is the root's weights."""

  def log_partition(arc):
    best = arc.detach().amax(dim=2, keepdim=True)
    weights = torch.exp(arc - best)
    tokens = weights[:, :, 1:].masked_fill(torch.eye(arc.shape[1], dtype=torch.bool), 0.0)
    laplacian = torch.diag_embed(tokens.sum(dim=2)) - tokens.transpose(1, 2)
    laplacian = torch.cat([weights[:, None, :, 0], laplacian[:, 1:]], dim=1)
    return torch.linalg.slogdet(laplacian)[1] + best.sum(dim=(1, 2))

  return with_gradients(log_partition, arc)


def _torch_struct() -> dict[str, Callable]:
  import torch_struct

  torch.distributions.Distribution.set_default_validate_args(
    False
  )  # its distributions say nothing to check

  def edges(unary, transition):
    scores = transition.T + unary[:, 1:, :, None]
    return torch.cat([scores[:, :1] + unary[:, :1, None, :], scores[:, 1:]], dim=1)

  def case_1a(teacher_unary, teacher_transition, unary, transition):
    teacher = torch_struct.LinearChainCRF(edges(teacher_unary, teacher_transition).requires_grad_())
    marginals = teacher.marginals.detach()

    def loss(unary, transition):
      scores = edges(unary, transition)
      expected = (marginals * scores).sum(dim=(1, 2, 3))
      return torch_struct.LinearChainCRF(scores).partition - expected

    return with_gradients(loss, unary, transition)

  def case_2a(teacher_unary, teacher_transition, logits):
    teacher = torch_struct.LinearChainCRF(edges(teacher_unary, teacher_transition).requires_grad_())
    pairs = teacher.marginals.detach()  # [B, n - 1, to, from]
    tags = torch.cat([pairs[:, :1].sum(dim=2), pairs.sum(dim=3)], dim=1)
    return with_gradients(lambda x: _cross_entropy(tags, x), logits)

  def chain(unary, transition):
    return with_gradients(
      lambda *x: torch_struct.LinearChainCRF(edges(*x)).partition, unary, transition
    )

  def case_4(scores):
    """Its segments have no labels that one cannot sum over first, so a state is one label, C = 1."""
    spans, _, upper = _segments(scores)
    size = scores.shape[1]
    start, end = torch.where(upper)

    def log_partition(spans):
      # By start and width; width 0 is not used.
      potentials = torch.full((len(spans), size, size + 1), -1e9)
      potentials[:, start, end - start + 1] = torch.logsumexp(spans[:, start, end], dim=-1)
      return torch_struct.SemiMarkovCRF(potentials[..., None, None]).partition

    return (_tags_of_spans(with_gradients(log_partition, spans)[1]),)

  def by_head(arc):
    """Scores by head and dependent, the root's on the diagonal."""
    root = torch.eye(arc.shape[1], dtype=torch.bool)
    return torch.where(root, arc[:, None, :, 0], arc[:, :, 1:].transpose(1, 2))

  def matrix_tree(arc):
    return with_gradients(
      lambda arc: torch_struct.NonProjectiveDependencyCRF(by_head(arc), multiroot=False).partition,
      arc,
    )

  def projective(arc):
    return with_gradients(
      lambda arc: torch_struct.DependencyCRF(by_head(arc), multiroot=False).partition, arc
    )

  return {
    "case 1a": case_1a,
    "case 2a": case_2a,
    "chain": chain,
    "case 4": case_4,
    "matrix-tree": matrix_tree,
    "projective": projective,
  }


def _pytorch_crf(unary: Tensor, transition: Tensor, tags: Tensor) -> tuple[Tensor, ...]:
  import torchcrf

  crf = torchcrf.CRF(unary.shape[-1], batch_first=True)
  with torch.no_grad():
    crf.transitions.copy_(transition)
    crf.start_transitions.zero_()
    crf.end_transitions.zero_()
  unary = unary.detach().requires_grad_()
  loss = -crf(unary, tags, torch.ones_like(tags, dtype=torch.bool), reduction="none")
  return loss.detach(), *torch.autograd.grad(loss.sum(), (unary, crf.transitions))


def contenders() -> Mapping[str, Mapping[str, Callable]]:
  """By problem and name; the first of a problem is what ratios are to. Without what is not installed."""
  found: dict[str, dict[str, Callable]] = {
    problem: {"PyTorch loop": function} for problem, function in _chain(_plain_sums).items()
  }
  found["case 4"] = {"PyTorch loop": _case_4}
  found["matrix-tree"] = {"PyTorch slogdet": _matrix_tree}
  for problem, function in _chain(_matrix_sums).items():
    found[problem]["PyTorch loop of matrix products"] = function
  if importlib.util.find_spec("torch_struct"):
    for problem, function in _torch_struct().items():
      found.setdefault(problem, {})["torch-struct"] = function
  if importlib.util.find_spec("torchcrf"):
    found["likelihood"]["pytorch-crf"] = _pytorch_crf
  return found
