"""The best projective tree, the k best and samples, against lists of all projective trees."""

from kd_jax.structured._projective_trees import (
  k_best_projective_trees,
  maximum_projective_tree,
  sample_projective_tree,
)
from tests.structured.tree_search import TreeSearchContract


class ProjectiveTreeSearch(TreeSearchContract):
  projective = True

  def best(self, arc, mask):
    return maximum_projective_tree(arc, mask, single_root=self.single_root)

  def k_best(self, arc, k, mask):
    return k_best_projective_trees(arc, k, mask, single_root=self.single_root)

  def sample(self, arc, key, mask):
    return sample_projective_tree(arc, key, mask, single_root=self.single_root)


class TestSingleRoot(ProjectiveTreeSearch):
  single_root = True


class TestMultiRoot(ProjectiveTreeSearch):
  single_root = False
