"""Lesson 19: the cross-entropy over a large vocabulary, estimated from a sample of it.

With 20,000 words, the last layer does nearly all the work of a small language model. Its gradient is needed only on
average, so each step estimates the sum over the vocabulary from n random words, weighted by the inverse of their
probability (importance sampling, Bengio and Senecal 2008; Jean et al. 2015, arXiv 1412.2007, section 3):

    -score(target) + log( exp score(target) + sum over n words w ~ q, w not the target, of exp score(w) / (n q(w)) )

The words are drawn log-uniformly, q(k) = log((k + 2) / (k + 1)) / log(V + 1), which is close to their frequency
because word tokens are numbered by frequency (Zipf's law). Evaluation always sums over the whole vocabulary.

Shapes: N tokens, S sampled words, E features, V vocabulary.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def sampled_cross_entropy(
    features_NE: Tensor, target_N: Tensor, weight_VE: Tensor, bias_V: Tensor | None, n: int
) -> Tensor:
    """An estimate of the mean cross-entropy of N tokens, biased low for few samples (Jensen's inequality).

    Args:
        features_NE: the input of the last layer.
        target_N: int64, the tokens to predict.
        weight_VE: the last layer's weight.
        bias_V: its bias, or None.
        n: words to draw, 1 or more, shared by all N tokens.
    """
    size = len(weight_VE)
    log_size = math.log(size + 1)
    drawn_S = (torch.rand(n, device=target_N.device, dtype=torch.float64) * log_size).exp().long() - 1
    drawn_S = drawn_S.clamp(0, size - 1)  # exp(log(V + 1)) may round to V + 1

    expected_S = n * ((drawn_S + 2) / (drawn_S + 1)).log() / log_size  # expected number of draws
    own_N = (features_NE * functional.embedding(target_N, weight_VE)).sum(dim=1)
    others_NS = features_NE @ functional.embedding(drawn_S, weight_VE).t() - expected_S.log().to(features_NE.dtype)
    if bias_V is not None:
        own_N, others_NS = own_N + bias_V[target_N], others_NS + bias_V[drawn_S]
    others_NS = others_NS.masked_fill(target_N.unsqueeze(1) == drawn_S, -math.inf)
    return (torch.logsumexp(torch.cat([own_N.unsqueeze(1), others_NS], dim=1), dim=1) - own_N).mean()
