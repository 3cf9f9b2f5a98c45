"""Independent references for structures, in float64 NumPy.

A structure of a short sentence is written down as how often it contains each part (a tag at a
position, a span, an arc). From the list of all structures follow their distribution and
everything about it, in sums over that list. Longer sentences have dynamic programmes in plain
loops; test_oracles.py holds these against the lists. Nothing here imports kd_jax or jax.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

EXCLUDED = -1e30
"""What kd_jax.types.NEG_INF stands for: the score of what cannot be."""


class Structures(NamedTuple):
  """All structures of a sentence.

  Attributes:
    decoded: [Y, n] how each is written down: tags or heads.
    counts: [Y, parts] how often each contains each part.
  """

  decoded: np.ndarray
  counts: np.ndarray


def log_sum_exp(values):
  """log sum exp of a list, where -inf is allowed."""
  values = np.asarray(values, np.float64)
  top = np.max(values, initial=-np.inf)
  if top == -np.inf:
    return -math.inf
  return float(top + np.log(np.sum(np.exp(values - top))))


# What the list of structures says. `parts` [parts] are the scores, float64.


def scores(structures, parts):
  return structures.counts @ np.asarray(parts, np.float64)


def log_partition(structures, parts):
  return log_sum_exp(scores(structures, parts))


def log_probs(structures, parts):
  found = scores(structures, parts)
  return found - log_sum_exp(found)


def marginals(structures, parts):
  """[parts]: the expected number of each part."""
  return np.exp(log_probs(structures, parts)) @ structures.counts


def cross_entropy(structures, teacher, student):
  return -float(np.exp(log_probs(structures, teacher)) @ log_probs(structures, student))


def entropy(structures, parts):
  return cross_entropy(structures, parts, parts)


def kl_divergence(structures, teacher, student):
  difference = log_probs(structures, teacher) - log_probs(structures, student)
  return float(np.exp(log_probs(structures, teacher)) @ difference)


def k_best(structures, parts, k):
  """The k best decoded structures and their scores, best first; fewer if there are fewer."""
  found = scores(structures, parts)
  order = np.argsort(-found, kind="stable")[:k]
  return structures.decoded[order], found[order]


# Tag sequences. Parts: unary [n, L], then pairwise [n - 1, L, L].


@functools.cache
def tag_sequences(n, num_tags):
  decoded, counts = [], []
  for tags in itertools.product(range(num_tags), repeat=n):
    unary = np.zeros((n, num_tags))
    pairwise = np.zeros((max(n - 1, 0), num_tags, num_tags))
    for i, tag in enumerate(tags):
      unary[i, tag] = 1
      if i > 0:
        pairwise[i - 1, tags[i - 1], tag] = 1
    decoded.append(tags)
    counts.append(np.concatenate([unary.ravel(), pairwise.ravel()]))
  return Structures(np.array(decoded, int).reshape(len(decoded), n), np.array(counts))


def chain_parts(unary, transition):
  """The scores of a chain's parts; one transition for every pair of neighbours."""
  pairwise = np.broadcast_to(transition, (max(len(unary) - 1, 0), *np.shape(transition)))
  return np.concatenate([np.ravel(unary), np.ravel(pairwise)]).astype(np.float64)


def forward_backward(unary, transition):
  """Log-partition, unary marginals [n, L] and pairwise marginals [n - 1, L, L] of a chain."""
  unary, transition = np.float64(unary), np.float64(transition)
  n, num_tags = unary.shape
  forward, backward = np.zeros((2, n, num_tags))
  forward[0] = unary[0]
  for i in range(1, n):
    for tag in range(num_tags):
      forward[i, tag] = unary[i, tag] + log_sum_exp(forward[i - 1] + transition[:, tag])
  for i in reversed(range(n - 1)):
    for tag in range(num_tags):
      backward[i, tag] = log_sum_exp(transition[tag] + unary[i + 1] + backward[i + 1])
  total = log_sum_exp(forward[-1])
  pairwise = np.zeros((n - 1, num_tags, num_tags))
  for i in range(n - 1):
    following = unary[i + 1] + backward[i + 1]
    pairwise[i] = np.exp(forward[i][:, None] + transition + following - total)
  return total, np.exp(forward + backward - total), pairwise


def legal_transitions(num_labels):
  """BIOES tags: which may follow which, which may begin and which may end a sentence."""
  num_tags = 4 * num_labels + 1

  def parse(tag):
    return ("O", None) if tag == 0 else ("SBIE"[(tag - 1) % 4], (tag - 1) // 4)

  allowed = np.zeros((num_tags, num_tags), bool)
  for before in range(num_tags):
    for after in range(num_tags):
      (kind, label), (next_kind, next_label) = parse(before), parse(after)
      if kind in "BI":
        allowed[before, after] = next_kind in "IE" and label == next_label
      else:
        allowed[before, after] = next_kind in "OSB"
  start = np.array([parse(tag)[0] in "OSB" for tag in range(num_tags)])
  end = np.array([parse(tag)[0] in "OSE" for tag in range(num_tags)])
  return allowed, start, end


# Flat spans. Parts: [n, n, R] by start, inclusive end and label.


def tags_of_spans(spans, n):
  """BIOES tags of non-overlapping spans (start, end, label)."""
  tags = [0] * n
  for start, end, label in spans:
    for i in range(start, end + 1):
      tags[i] = 3 + 4 * label
    tags[start] = 2 + 4 * label
    tags[end] = 4 + 4 * label
    if start == end:
      tags[start] = 1 + 4 * label
  return tags


def spans_of_tags(tags, num_labels):
  """bool [n, n, R]: S, or B, any number of I, and E, all of one label."""
  n = len(tags)
  found = np.zeros((n, n, num_labels), bool)
  for start, end, label in itertools.product(range(n), range(n), range(num_labels)):
    if start <= end:
      wanted = tags_of_spans([(0, end - start, label)], end - start + 1)
      found[start, end, label] = list(tags[start : end + 1]) == wanted
  return found


@functools.cache
def flat_spans(n, num_labels):
  """Every set of spans of which no two share a token."""
  spans = [
    span for span in itertools.product(range(n), range(n), range(num_labels)) if span[0] <= span[1]
  ]
  decoded, counts = [], []
  for size in range(n + 1):
    for chosen in itertools.combinations(spans, size):
      tokens = [i for start, end, _ in chosen for i in range(start, end + 1)]
      if len(tokens) == len(set(tokens)):
        count = np.zeros((n, n, num_labels))
        for span in chosen:
          count[span] = 1
        decoded.append(tags_of_spans(chosen, n))
        counts.append(count.ravel())
  return Structures(np.array(decoded, int).reshape(len(decoded), n), np.array(counts))


def tag_marginals(structures, parts, num_tags):
  """[n, num_tags]: the probability of each tag at each token."""
  probs = np.exp(log_probs(structures, parts))
  found = np.zeros((structures.decoded.shape[1], num_tags))
  for prob, tags in zip(probs, structures.decoded, strict=True):
    for i, tag in enumerate(tags):
      found[i, tag] += prob
  return found


def span_log_partition(span_scores):
  """F(1) = 1; F(m + 1) = F(m) + sum_R sum_{i <= m} F(i) exp s(i, m, R); F(n + 1), in log space."""
  span_scores = np.float64(span_scores)
  before = [0.0]  # before[m]: log weight of the first m tokens
  for end in range(len(span_scores)):
    terms = [before[end]]
    for start in range(end + 1):
      terms += [before[start] + score for score in span_scores[start, end]]
    before.append(log_sum_exp(terms))
  return before[-1]


# Dependency trees. Parts: arcs [n, n + 1], dependent by head; head 0 is the root.


def is_tree(heads, single_root=False):
  """Whether every token leads up to the root, and (single_root) one token only is its child."""
  for token in range(1, len(heads) + 1):
    seen = set()
    while token != 0:
      if token in seen:
        return False
      seen.add(token)
      token = heads[token - 1]
  return not single_root or not heads or list(heads).count(0) == 1


def is_projective(heads):
  """Whether all tokens between a head and its dependent descend from the head."""

  def ancestors(token):
    while token != 0:
      token = heads[token - 1]
      yield token

  return all(
    head in ancestors(between)
    for token, head in enumerate(heads, 1)
    for between in range(min(token, head) + 1, max(token, head))
  )


@functools.cache
def trees(n, single_root, projective):
  decoded, counts = [], []
  for heads in itertools.product(range(n + 1), repeat=n):
    if is_tree(heads, single_root) and (not projective or is_projective(heads)):
      count = np.zeros((n, n + 1))
      for i, head in enumerate(heads):
        count[i, head] = 1
      decoded.append(heads)
      counts.append(count.ravel())
  return Structures(np.array(decoded, int).reshape(len(decoded), n), np.array(counts))


def matrix_tree(arc, single_root):
  """Log-partition by the determinant of the Laplacian, for scores of moderate size."""
  arc = np.float64(arc)
  n = len(arc)
  weights = np.exp(arc)
  laplacian = np.zeros((n, n))
  for i in range(n):
    for head in range(n):
      if head != i:
        laplacian[i, head] = -weights[i, head + 1]
        laplacian[i, i] += weights[i, head + 1]
  if single_root:
    laplacian[:, 0] = weights[:, 0]  # Koo et al. (2007): one row of the transpose
  else:
    laplacian += np.diag(weights[:, 0])
  sign, log_det = np.linalg.slogdet(laplacian)
  assert sign > 0
  return log_det


def tree_log_partition(arc, single_root):
  """Log-partition for scores of any size: tokens are eliminated one by one, without subtraction."""
  arc = np.float64(arc)
  n = len(arc)
  if single_root:
    rooted = []
    for root in range(n):
      others = [i for i in range(n) if i != root]
      below = arc[np.ix_(others, [root + 1] + [i + 1 for i in others])]
      rooted.append(arc[root, 0] + tree_log_partition(below, False))
    return log_sum_exp(rooted)
  arc, total = arc.copy(), 0.0
  for last in reversed(range(n)):
    # A token's weight under each remaining head, shared out among those who hang below it.
    weight = log_sum_exp(arc[last, : last + 1])
    if weight == -math.inf:
      return weight
    total += weight
    shared = arc[last, : last + 1] - weight
    arc = np.logaddexp(arc[:last, : last + 1], arc[:last, last + 1 :] + shared)
  return total


def eisner_log_partition(arc, single_root):
  """Log-partition of projective trees: inside pass over complete and incomplete spans."""
  arc = np.float64(arc)
  n = len(arc)

  def inside(first):
    """Complete spans [left, right, headed by the right end or not] over tokens first..n."""
    incomplete = np.full((n + 1, n + 1, 2), -np.inf)
    complete = np.full((n + 1, n + 1, 2), -np.inf)
    for i in range(first, n + 1):
      complete[i, i] = 0
    for width in range(1, n + 1 - first):
      for left in range(first, n + 1 - width):
        right = left + width
        joined = log_sum_exp(
          [complete[left, m, 0] + complete[m + 1, right, 1] for m in range(left, right)]
        )
        incomplete[left, right, 0] = joined + arc[right - 1, left]
        if left > 0:
          incomplete[left, right, 1] = joined + arc[left - 1, right]
        complete[left, right, 0] = log_sum_exp(
          [incomplete[left, m, 0] + complete[m, right, 0] for m in range(left + 1, right + 1)]
        )
        complete[left, right, 1] = log_sum_exp(
          [complete[left, m, 1] + incomplete[m, right, 1] for m in range(left, right)]
        )
    return complete

  if not single_root:
    return float(inside(0)[0, n, 0])
  complete = inside(1)
  return log_sum_exp(
    [arc[r - 1, 0] + complete[1, r, 1] + complete[r, n, 0] for r in range(1, n + 1)]
  )


def forced_marginals(log_partition_of, arc):
  """[n, n + 1]: P(arc) = exp(log Z with the token's other heads ruled out - log Z)."""
  arc = np.float64(arc)
  total = log_partition_of(arc)
  found = np.zeros(arc.shape)
  for i, head in np.ndindex(arc.shape):
    if head != i + 1:
      forced = arc.copy()
      forced[i] = -np.inf
      forced[i, head] = arc[i, head]
      found[i, head] = math.exp(log_partition_of(forced) - total)
  return found


def tree_score(arc, heads):
  """The score of a tree, in float64."""
  return sum(float(arc[i, head]) for i, head in enumerate(heads))


def maximum_spanning_tree(arc):
  """Heads of the best tree with one child of the root: Chu-Liu/Edmonds for every such child."""
  n = len(arc)
  best, best_heads = -math.inf, []
  for child in range(n):
    graph = {}
    for i in range(n):
      heads = [0] if i == child else [h for h in range(1, n + 1) if h != i + 1]
      for head in heads:
        graph[i + 1, head] = (float(arc[i, head]), i + 1, head)
    heads = [head for _, head in sorted(_arborescence(graph, set(range(1, n + 1))))]
    if tree_score(arc, heads) > best:
      best, best_heads = tree_score(arc, heads), heads
  return best_heads


def _arborescence(graph, nodes):
  """The original arcs (dependent, head) of the best tree of {(node, head): (score, arc)}."""
  choice = {}
  for (node, head), entry in graph.items():
    if node not in choice or entry[0] > graph[node, choice[node]][0]:
      choice[node] = head
  for start in nodes:
    path, node = [], start
    while node in nodes and node not in path:
      path.append(node)
      node = choice[node]
    if node in path:
      cycle = set(path[path.index(node) :])
      break
  else:
    return [graph[node, choice[node]][1:] for node in nodes]
  # Contract the cycle; an arc into it costs what leaves the cycle.
  merged, contracted, entries = ("cycle", *sorted(cycle, key=str)), {}, {}
  for (node, head), entry in graph.items():
    if node in cycle and head in cycle:
      continue
    score, new_node, new_head = entry[0], node, head
    if node in cycle:
      score, new_node = score - graph[node, choice[node]][0], merged
    elif head in cycle:
      new_head = merged
    key = new_node, new_head
    if key not in contracted or score > contracted[key][0]:
      contracted[key] = (score, *entry[1:])
      entries[entry[1:]] = node
  found = _arborescence(contracted, (nodes - cycle) | {merged})
  broken = {entries[arc] for arc in found if entries.get(arc) in cycle}
  # Exactly one arc enters the cycle from outside; its node gives up the arc of the cycle.
  return found + [graph[node, choice[node]][1:] for node in cycle - broken]


# Second-order scores.


def mean_field(arc, sibling, grandparent, iterations):
  """Mean-field head marginals [n, n + 1], by the update's formula, one arc at a time."""
  arc = np.float64(arc)
  n = len(arc)
  tokens, heads = range(1, n + 1), range(n + 1)

  def softmax(values):
    q = np.zeros((n + 1, n + 1))  # q[i, h], row 0 unused
    for i in tokens:
      top = max(values[i, h] for h in heads if h != i)
      total = sum(math.exp(values[i, h] - top) for h in heads if h != i)
      for h in heads:
        if h != i:
          q[i, h] = math.exp(values[i, h] - top) / total
    return q

  first_order = {(i, h): arc[i - 1, h] for i in tokens for h in heads if h != i}
  q = softmax(first_order)
  for _ in range(iterations):
    values = dict(first_order)
    for i, h in values:
      for k in tokens:
        if sibling is not None and k not in (i, h):
          values[i, h] += q[k, h] * float(sibling[i - 1, h, k - 1])
      if grandparent is not None:
        for g in heads:
          if h != 0 and g not in (i, h):
            values[i, h] += q[h, g] * float(grandparent[i - 1, h - 1, g])
        for c in tokens:
          if c not in (i, h):
            values[i, h] += q[c, i] * float(grandparent[c - 1, i - 1, h])
    q = softmax(values)
  return q[1:]
