"""Lesson 19: the cross-entropy over a large vocabulary, estimated from a sample of it.

With 20,000 words nearly all of the work of a small language model is the last layer. Training needs its gradient only
on average, so the sum over the vocabulary is estimated from n words drawn anew in every step, each weighed by how
likely it was to be drawn (importance sampling, Bengio and Senecal 2008; Jean et al. 2015, arXiv 1412.2007, section 3):

    -score(target) + log( exp score(target) + sum over n words w ~ q, w not the target, of exp score(w) / (n q(w)) )

The words are drawn log-uniformly, q(k) = log((k + 2) / (k + 1)) / log(V + 1), which is near their frequency where
tokens are numbered by it, as those of words are (Zipf's law). Evaluation always sums over all.

Shapes: N tokens, S sampled words, E features, V vocabulary.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def sampled_cross_entropy(
    features_NE: Tensor, target_N: Tensor, weight_VE: Tensor, bias_V: Tensor | None, n: int
) -> Tensor:
    """An estimate of the mean cross-entropy of N tokens; for few samples it is too low on average (Jensen).

    Args:
        features_NE: what the last layer scores.
        target_N: int64, the tokens to predict.
        weight_VE: the last layer's weight.
        bias_V: its bias; None where it has none.
        n: words to draw, 1 or more; all N tokens are compared with the same ones.
    """
    size = len(weight_VE)
    log_size = math.log(size + 1)
    drawn_S = (torch.rand(n, device=target_N.device, dtype=torch.float64) * log_size).exp().long() - 1
    drawn_S = drawn_S.clamp(0, size - 1)  # exp(log(V + 1)) may round to V + 1

    expected_S = n * ((drawn_S + 2) / (drawn_S + 1)).log() / log_size  # how often each is drawn
    own_N = (features_NE * functional.embedding(target_N, weight_VE)).sum(dim=1)
    others_NS = features_NE @ functional.embedding(drawn_S, weight_VE).t() - expected_S.log().to(features_NE.dtype)
    if bias_V is not None:
        own_N, others_NS = own_N + bias_V[target_N], others_NS + bias_V[drawn_S]
    others_NS = others_NS.masked_fill(target_N.unsqueeze(1) == drawn_S, -math.inf)
    return (torch.logsumexp(torch.cat([own_N.unsqueeze(1), others_NS], dim=1), dim=1) - own_N).mean()
