"""Independent references for the losses, reductions and schedules, in float64 NumPy.

Each function follows the printed definition, one example and one class at a time, in probability
space: slow, short and easy to check by eye. Nothing here imports kd_jax or jax.
"""

import math

import numpy as np


def softmax(logits, temperature=1.0):
  """Probabilities of one row: exp(z_c / T) / sum_j exp(z_j / T)."""
  scaled = np.asarray(logits, np.float64) / temperature
  weights = [math.exp(value - max(scaled)) for value in scaled]
  return [weight / sum(weights) for weight in weights]


def kl(p, q):
  """KL(p || q) = sum_c p_c log(p_c / q_c), where 0 log 0 = 0."""
  total = 0.0
  for p_c, q_c in zip(p, q, strict=True):
    if p_c > 0:
      total += p_c * (math.log(p_c) - math.log(q_c))
  return total


def _each_row(row_loss, student_logits, *others):
  """Calls row_loss(student[i], other[i], ...) for every index i of the leading axes."""
  student_logits = np.asarray(student_logits, np.float64)
  others = [np.asarray(other) for other in others]
  result = np.zeros(student_logits.shape[:-1])
  for index in np.ndindex(result.shape):
    result[index] = row_loss(student_logits[index], *(other[index] for other in others))
  return result


# Divergences.


def forward_kl(student_logits, teacher_logits, temperature=1.0):
  """KL(teacher || student)."""

  def row(student, teacher):
    return kl(softmax(teacher, temperature), softmax(student, temperature))

  return _each_row(row, student_logits, teacher_logits)


def reverse_kl(student_logits, teacher_logits, temperature=1.0):
  """KL(student || teacher)."""

  def row(student, teacher):
    return kl(softmax(student, temperature), softmax(teacher, temperature))

  return _each_row(row, student_logits, teacher_logits)


def jensen_shannon(student_logits, teacher_logits, temperature=1.0):
  """1/2 KL(teacher || m) + 1/2 KL(student || m), m the mean of the two."""

  def row(student, teacher):
    p_s, p_t = softmax(student, temperature), softmax(teacher, temperature)
    mixture = [(s + t) / 2 for s, t in zip(p_s, p_t, strict=True)]
    return 0.5 * kl(p_t, mixture) + 0.5 * kl(p_s, mixture)

  return _each_row(row, student_logits, teacher_logits)


def soft_cross_entropy(student_logits, teacher_logits, temperature=1.0):
  """-sum_c p_t(c) log p_s(c)."""

  def row(student, teacher):
    p_s, p_t = softmax(student, temperature), softmax(teacher, temperature)
    return -sum(t * math.log(s) for s, t in zip(p_s, p_t, strict=True) if t > 0)

  return _each_row(row, student_logits, teacher_logits)


# Losses on logits.


def hard_label_loss(student_logits, labels):
  """-log p_s(y)."""
  return _each_row(
    lambda student, label: -math.log(softmax(student)[int(label)]), student_logits, labels
  )


def squared_error_loss(student_outputs, labels):
  """(z_s - y)² of the one output."""
  return _each_row(lambda student, label: (student[0] - float(label)) ** 2, student_outputs, labels)


def soft_target_kd_loss(student_logits, teacher_logits, temperature):
  """T² KL(teacher || student), Hinton et al. 2015."""
  return temperature**2 * forward_kl(student_logits, teacher_logits, temperature)


def logit_regression_loss(student_logits, teacher_logits):
  """sum_c (z_s - z_t)²."""

  def row(student, teacher):
    return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True))

  return _each_row(row, student_logits, np.asarray(teacher_logits, np.float64))


def decoupled_kd_loss(
  student_logits,
  teacher_logits,
  labels,
  temperature=1.0,
  target_weight=1.0,
  non_target_weight=8.0,
):
  """T² [w KL(b_t || b_s) + v KL(p̂_t || p̂_s)], Zhao et al. 2022."""

  def split(logits, label):
    p = softmax(logits, temperature)
    rest = sum(p[c] for c in range(len(p)) if c != label)
    others = softmax([z for c, z in enumerate(logits) if c != label], temperature)
    return [p[label], rest], others

  def row(student, teacher, label):
    binary_s, others_s = split(student, label)
    binary_t, others_t = split(teacher, label)
    return temperature**2 * (
      target_weight * kl(binary_t, binary_s) + non_target_weight * kl(others_t, others_s)
    )

  return _each_row(row, student_logits, teacher_logits, labels)


def pearson(x, y):
  """cov(x, y) / (std(x) std(y))."""
  mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
  covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
  variance_x = sum((a - mean_x) ** 2 for a in x)
  variance_y = sum((b - mean_y) ** 2 for b in y)
  return covariance / math.sqrt(variance_x * variance_y)


def dist_inter_loss(student_logits, teacher_logits, temperature=1.0):
  """1 - Pearson correlation over the classes of each example, Huang et al. 2022."""

  def row(student, teacher):
    return 1 - pearson(softmax(student, temperature), softmax(teacher, temperature))

  return _each_row(row, student_logits, teacher_logits)


def dist_intra_loss(student_logits, teacher_logits, temperature=1.0, mask=None):
  """1 - Pearson correlation over the batch for each class; masked examples left out."""
  kept = [b for b in range(len(student_logits)) if mask is None or mask[b]]
  p_s = [softmax(student_logits[b], temperature) for b in kept]
  p_t = [softmax(teacher_logits[b], temperature) for b in kept]
  classes = range(np.shape(student_logits)[1])
  columns = [([row[c] for row in p_s], [row[c] for row in p_t]) for c in classes]
  return np.array([1 - pearson(s, t) for s, t in columns])


def top_k(teacher_logits, k, temperature=1.0):
  """(indices, log-probabilities, log of the mass of all other classes), likeliest first."""
  teacher_logits = np.asarray(teacher_logits, np.float64)
  leading = teacher_logits.shape[:-1]
  indices, log_probs = np.zeros((*leading, k), np.int64), np.zeros((*leading, k))
  tail = np.zeros(leading)
  for index in np.ndindex(leading):
    p = softmax(teacher_logits[index], temperature)
    order = sorted(range(len(p)), key=lambda c: -p[c])
    indices[index] = order[:k]
    log_probs[index] = [math.log(p[c]) for c in order[:k]]
    tail[index] = math.log(sum(p[c] for c in order[k:]))
  return indices, log_probs, tail


def top_k_kd_loss(student_logits, teacher_logits, k, temperature=1.0):
  """T² KL over k + 1 outcomes: the teacher's k likeliest classes, and all others as one."""

  def row(student, teacher):
    p_s, p_t = softmax(student, temperature), softmax(teacher, temperature)
    order = sorted(range(len(p_t)), key=lambda c: -p_t[c])
    merged_s = [p_s[c] for c in order[:k]] + [sum(p_s[c] for c in order[k:])]
    merged_t = [p_t[c] for c in order[:k]] + [sum(p_t[c] for c in order[k:])]
    return temperature**2 * kl(merged_t, merged_s)

  return _each_row(row, student_logits, teacher_logits)


# Annealing.


def annealing_factor(temperature, max_temperature):
  """Phi(T) = 1 - (T - 1) / tau_max, Jafari et al. 2021."""
  return 1 - (temperature - 1) / max_temperature


def annealing_kd_loss(student_logits, teacher_logits, temperature, max_temperature, center=0.0):
  """|| z_s - Phi(T) z_t ||²; around a center c, || z_s - (c + Phi(T) (z_t - c)) ||²."""
  factor = annealing_factor(temperature, max_temperature)
  targets = center + factor * (np.asarray(teacher_logits, np.float64) - center)
  return logit_regression_loss(student_logits, targets)


def continuation_kd_loss(
  student_logits, teacher_logits, temperature, max_temperature, margin, center=0.0
):
  """max(0, || z_s - Phi z_t ||² - m Phi), Jafari et al. 2022."""
  distance = annealing_kd_loss(student_logits, teacher_logits, temperature, max_temperature, center)
  return np.maximum(0, distance - margin * annealing_factor(temperature, max_temperature))


# Reductions.


def masked_sum_and_count(values, mask=None):
  """Sum and number of the elements whose leading indices the mask keeps."""
  values = np.asarray(values, np.float64)
  total, count = 0.0, 0
  for index in np.ndindex(values.shape):
    if mask is None or np.asarray(mask)[index[: np.ndim(mask)]]:
      total += values[index]
      count += 1
  return total, count


def masked_mean(values, mask=None):
  """Mean of the kept elements, 0 where none is kept."""
  total, count = masked_sum_and_count(values, mask)
  return total / count if count else 0.0


# Schedules: the value at one step.


def annealing_temperature(step, max_temperature, steps_per_temperature):
  """Counts down from tau_max, steps_per_temperature steps each, and stays at 1."""
  temperature = max_temperature
  for _ in range(step // steps_per_temperature):
    if temperature > 1:
      temperature -= 1
  return temperature


def _progress(step, steps, begin):
  return min(max(step - begin, 0), steps) / steps


def linear_schedule(step, start, end, steps, begin=0):
  """Stays at start up to `begin`, a straight line to end at begin + steps, then end."""
  return start + (end - start) * _progress(step, steps, begin)


def cosine_schedule(step, start, end, steps, begin=0):
  """As linear_schedule, along half a period of a cosine."""
  return end + (start - end) * (1 + math.cos(math.pi * _progress(step, steps, begin))) / 2


def step_schedule(step, values, boundaries):
  """values[i] for the steps before boundaries[i], the last value after all of them."""
  for value, boundary in zip(values, boundaries, strict=False):
    if step < boundary:
      return value
  return values[-1]


# Layers: one example, [S, D] against [T, D].


def layer_attention(queries, keys, values):
  """sum_j softmax_j(<q_i, k_j>) v_j for each query of one example."""
  mixed = np.zeros((len(queries), np.shape(values)[1]))
  for i, query in enumerate(queries):
    weights = softmax([sum(a * b for a, b in zip(query, key, strict=True)) for key in keys])
    for weight, value in zip(weights, values, strict=True):
      mixed[i] += weight * np.asarray(value, np.float64)
  return mixed


def _each_example(example_loss, student, teacher):
  """Calls example_loss(student[i], teacher[i]) for every index i of the leading axes of [..., S, D]."""
  student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
  result = np.zeros(student.shape[:-2])
  for index in np.ndindex(result.shape):
    result[index] = example_loss(student[index], teacher[index])
  return result


def universal_kd_loss(student, teacher, regression=False, attend="logits", center=0.0):
  """sum_i KL(softmax(mix_i) || softmax(z^S_i)), or the squared distance in regression.

  With attend="losses", sum_i sum_j a_ij of the distance to each of the teacher's layers. A center is taken from
  both sides.
  """
  student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
  student, teacher = student - center, teacher - center

  def distance(own, theirs):
    return sum((own - theirs) ** 2) if regression else kl(softmax(theirs), softmax(own))

  def example(student, teacher):
    if attend == "losses":
      total = 0.0
      for own in student:
        weights = softmax([sum(a * b for a, b in zip(own, key, strict=True)) for key in teacher])
        total += sum(w * distance(own, z) for w, z in zip(weights, teacher, strict=True))
      return total
    mixes = layer_attention(student, teacher, teacher)
    return sum(distance(own, mixed) for own, mixed in zip(student, mixes, strict=True))

  return _each_example(example, student, teacher)


def universal_kd_capacity_gap_loss(
  student_logits, teacher_layer_logits, teacher_logits, regression=False, center=0.0
):
  """KL(softmax(sum_j a_j z_j) || softmax(z^S)) with the final logits as the last of the z_j."""
  student, inner, final = (
    np.asarray(x, np.float64) - center
    for x in (student_logits, teacher_layer_logits, teacher_logits)
  )
  result = np.zeros(student.shape[:-1])
  for index in np.ndindex(result.shape):
    own, pool = student[index], [*inner[index], final[index]]
    weights = softmax([sum(a * b for a, b in zip(own, z, strict=True)) for z in pool])
    mixed = [sum(w * z[c] for w, z in zip(weights, pool, strict=True)) for c in range(len(own))]
    if regression:
      result[index] = sum((a - b) ** 2 for a, b in zip(own, mixed, strict=True))
    else:
      result[index] = kl(softmax(mixed), softmax(own))
  return result


def alp_kd_loss(student, teacher):
  """sum_i of the mean squared difference between h^S_i and its mix of the teacher's layers."""

  def example(student, teacher):
    mixed = layer_attention(student, teacher, teacher)
    return sum(
      sum((a - b) ** 2 for a, b in zip(own, target, strict=True)) / len(own)
      for own, target in zip(student, mixed, strict=True)
    )

  return _each_example(example, student, teacher)


def patient_kd_loss(student, teacher):
  """sum_i of the mean squared difference between the states, each divided by its norm."""

  def direction(state):
    norm = math.sqrt(sum(value**2 for value in state))
    return [value / norm if norm else 0.0 for value in state]

  def example(student, teacher):
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
      pairs = zip(direction(own), direction(other), strict=True)
      total += sum((a - b) ** 2 for a, b in pairs) / len(own)
    return total

  return _each_example(example, student, teacher)


# Tokens: padding is cut off before anything is computed.


def _each_text(text_loss, mask, *batches):
  """[B] values of text_loss(first[b], ...) on each text's own tokens, the last axis but one; 0 without any."""
  result = np.zeros(len(mask))
  for row, kept in enumerate(np.asarray(mask, bool)):
    if kept.any():
      own = (np.asarray(batch[row], np.float64)[..., kept, :] for batch in batches)
      result[row] = text_loss(*own)
  return result


def _relations(states, head, heads):
  """softmax(X X^T / sqrt(d)) of one relation head of one text [n, D]: a list of rows."""
  width = states.shape[1] // heads
  own = states[:, head * width : (head + 1) * width]
  return [softmax([query @ key / math.sqrt(width) for key in own]) for query in own]


def relation_kd_loss(student, teacher, mask, relation_heads):
  """Mean over relation heads and queries of KL(R_T || R_S)."""

  def text(student, teacher):
    values = []
    for head in range(relation_heads):
      rows = (_relations(states, head, relation_heads) for states in (teacher, student))
      values += [kl(p, q) for p, q in zip(*rows, strict=True)]
    return sum(values) / len(values)

  return _each_text(text, mask, student, teacher)


def hidden_state_loss(student, teacher, mask):
  """Mean of all squared differences."""
  return _each_text(
    lambda student, teacher: np.mean((student - teacher) ** 2), mask, student, teacher
  )


def attention_loss(student_queries, student_keys, teacher_queries, teacher_keys, mask):
  """Mean over heads and pairs of tokens of the squared differences of q . k / sqrt(d)."""

  def text(*states):
    values = []
    for sq, sk, tq, tk in zip(*states, strict=True):  # heads
      for i in range(len(sq)):
        for j in range(len(sq)):
          own, other = (q[i] @ k[j] / math.sqrt(len(q[i])) for q, k in ((sq, sk), (tq, tk)))
          values.append((own - other) ** 2)
    return sum(values) / len(values)

  return _each_text(text, mask, student_queries, student_keys, teacher_queries, teacher_keys)


def even_mapping(num_student, num_teacher):
  """TinyBERT's m(i) = i T / S, layers counted from 1, halves rounded up."""
  return [math.floor(i * num_teacher / num_student + 0.5) for i in range(1, num_student + 1)]


def tinybert_states_loss(student_states, teacher_states, mask):
  """Sum over the student's layers and embeddings, 0, of the loss on hidden states."""
  chosen = [0, *even_mapping(len(student_states) - 1, len(teacher_states) - 1)]
  total = np.zeros(len(mask))
  for i, j in enumerate(chosen):
    total += hidden_state_loss(student_states[i], teacher_states[j], mask)
  return total


def tinybert_attention_loss(student_queries, student_keys, teacher_queries, teacher_keys, mask):
  """Sum over the student's layers of the loss on attention."""
  total = np.zeros(len(mask))
  for i, j in enumerate(even_mapping(len(student_queries), len(teacher_queries))):
    own, theirs = (
      (student_queries[i], student_keys[i]),
      (teacher_queries[j - 1], teacher_keys[j - 1]),
    )
    total += attention_loss(*own, *theirs, mask)
  return total


# Features of one layer.


def fitnet_loss(student, teacher):
  """Half the mean over all entries of (u - r)², Romero et al. 2015."""
  result = np.zeros(len(student))
  for b in range(len(student)):
    pairs = list(zip(np.ravel(student[b]), np.ravel(teacher[b]), strict=True))
    result[b] = sum((float(t) - float(s)) ** 2 for s, t in pairs) / len(pairs) / 2
  return result


def attention_map(layer):
  """Q / ||Q|| with Q = sum_c A_c² at each position, one example after another."""
  layer = np.asarray(layer, np.float64)
  result = np.zeros((len(layer), layer[0, ..., 0].size))
  for b, features in enumerate(layer):
    positions = list(np.ndindex(features.shape[:-1]))
    energy = [sum(float(a) ** 2 for a in features[position]) for position in positions]
    norm = math.sqrt(sum(q**2 for q in energy))
    result[b] = [q / norm if norm else 0.0 for q in energy]
  return result


def attention_transfer_loss(student, teacher):
  """Mean over positions of the squared difference of the maps, Zagoruyko and Komodakis 2017."""
  result = np.zeros(len(student))
  for b, (own, other) in enumerate(
    zip(attention_map(student), attention_map(teacher), strict=True)
  ):
    result[b] = sum((p - q) ** 2 for p, q in zip(own, other, strict=True)) / len(own)
  return result


# Relations between the examples of a batch.


def huber(difference):
  """x² / 2 where |x| <= 1, |x| - 1/2 elsewhere."""
  size = abs(difference)
  return size**2 / 2 if size <= 1 else size - 0.5


def _norm(vector):
  return math.sqrt(sum(float(value) ** 2 for value in vector))


def rkd_distance_loss(student, teacher, mask=None):
  """Huber loss of ||x_i - x_j|| over the mean of all pairs i ≠ j, Park et al. 2019, equations 5 to 7."""
  size = len(student)
  kept = [i for i in range(size) if mask is None or mask[i]]
  pairs = [(i, j) for i in kept for j in kept if i != j]

  def potentials(x):
    x = np.asarray(x, np.float64)
    distances = {(i, j): _norm(x[i] - x[j]) for i, j in pairs}
    mean = sum(distances.values()) / len(pairs) if pairs else 0.0
    return {pair: distance / mean if mean else 0.0 for pair, distance in distances.items()}

  own, other = potentials(student), potentials(teacher)
  result = np.zeros((size, size))
  for pair in pairs:
    result[pair] = huber(own[pair] - other[pair])
  return result


def rkd_angle_loss(student, teacher, mask=None):
  """Huber loss of the cosine of the angle at i between j and k, Park et al. 2019, equations 8 to 10."""
  size = len(student)
  kept = [i for i in range(size) if mask is None or mask[i]]

  def cosine(x, i, j, k):
    first, second = x[j] - x[i], x[k] - x[i]
    lengths = _norm(first) * _norm(second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0

  student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
  result = np.zeros((size, size, size))
  for i in kept:
    for j in kept:
      for k in kept:
        if len({i, j, k}) == 3:
          result[i, j, k] = huber(cosine(student, i, j, k) - cosine(teacher, i, j, k))
  return result


def crd_loss(student, teacher, labels=None, temperature=0.07, mask=None):
  """-log of the softmax of cosines over the teacher of i and those of its negatives, at i."""
  size = len(student)
  kept = [i for i in range(size) if mask is None or mask[i]]

  def cosine(x, y):
    lengths = _norm(x) * _norm(y)
    return sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0

  result = np.zeros(size)
  for i in kept:
    compared = [i]
    for j in kept:
      if j != i and (labels is None or labels[j] != labels[i]):
        compared.append(j)
    similarities = [cosine(student[i], teacher[j]) for j in compared]
    result[i] = -math.log(softmax(similarities, temperature)[0])
  return result


# Gradients.


def central_differences(function, x, step=1e-5):
  """Derivatives d function / d x of a scalar function of one array."""
  x = np.asarray(x, np.float64)
  gradient = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    above, below = x.copy(), x.copy()
    above[index] += step
    below[index] -= step
    gradient[index] = (function(above) - function(below)) / (2 * step)
  return gradient
