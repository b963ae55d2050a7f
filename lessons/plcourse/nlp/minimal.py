"""Lesson 19 on one page: a GPT learns from movie reviews, character by character, and then writes some.

    python -m plcourse.nlp.minimal

A language model predicts the probability of each possible next character. It is trained on the actual next characters,
and writes by sampling from its predictions. The network is a decoder-only transformer (Vaswani et al. 2017; Radford et
al. 2019) with the parts of today's models: RMS normalization before each layer, rotary positions (Su et al. 2021,
arXiv 2104.09864, equation 34), no biases, and one matrix for the first and the last layer.

Shape suffixes: B rows, T tokens, V vocabulary, E width, N heads, D = E / N.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.nlp.data import LanguageData


class Block(nn.Module):
    """Attention, then a feed-forward network. Each adds its output to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed_forward = nn.RMSNorm(width), nn.RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.from_heads = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.from_heads.weight)  # every block starts as the identity
        nn.init.zeros_(self.down.weight)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Features in, features out."""
        x_BTE = x_BTE + self.attention(self.norm_attention(x_BTE))
        return x_BTE + self.down(functional.relu(self.up(self.norm_feed_forward(x_BTE))).square())

    def attention(self, x_BTE: Tensor) -> Tensor:
        """Each token averages the values of all tokens up to itself, weighted by how well query and key match."""
        n_rows, n_tokens, width = x_BTE.shape
        qkv_3BNTD = self.to_qkv(x_BTE).view(n_rows, n_tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv_3BNTD.unbind(0)
        mixed = functional.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        return self.from_heads(mixed.transpose(1, 2).reshape(n_rows, n_tokens, width))


def rotate(x_BNTD: Tensor) -> Tensor:
    """Rotates pairs of features by an angle proportional to the position, so that attention depends on distances."""
    n_tokens, half = x_BNTD.shape[2], x_BNTD.shape[3] // 2
    angle_TD = torch.arange(n_tokens)[:, None] * 10_000 ** (-torch.arange(half) / half)
    cos, sin = angle_TD.cos(), angle_TD.sin()
    a, b = x_BNTD.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class GPT(nn.Module):
    """A decoder-only transformer: tokens int64 [B, T] in, scores of each next token [B, T, V] out."""

    def __init__(self, vocab_size: int = 128, layers: int = 2, heads: int = 4, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Tokens in, scores out; the class gives the shapes."""
        return self.norm(self.blocks(self.embedding(tokens_BT))) @ self.embedding.weight.T


def train(model: GPT, data: LanguageData, steps: int, lr: float = 0.004) -> list[float]:
    """Takes `steps` optimizer steps, at most one epoch, and returns the loss of each in nats per character."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for batch in itertools.islice(data.train_dataloader(), steps):
        logits_BTV = model(batch["text"])
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), batch["target"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def continuation(model: GPT, data: LanguageData, prompt: str, length: int = 200, temperature: float = 0.8) -> str:
    """Samples one character after the other. A temperature below 1 makes likely characters even more likely."""
    tokens = data.tokenizer.encode([prompt])[0].tolist()
    for _ in range(length):
        logits_V = model(torch.tensor([tokens[-data.block_size :]]))[0, -1]
        tokens.append(int(torch.multinomial((logits_V / temperature).softmax(dim=0), 1)))
    return data.tokenizer.decode(tokens)


if __name__ == "__main__":
    torch.manual_seed(0)
    reviews = LanguageData("rotten_tomatoes", block_size=64, batch_size=32)
    reviews.setup("fit")
    gpt = GPT(reviews.tokenizer.size)
    losses = train(gpt, reviews, steps=380)  # nearly one epoch
    for first in range(0, len(losses), 95):
        mean = sum(losses[first : first + 95]) / 95
        print(f"steps {first} to {first + 94}: {mean / math.log(2):.2f} bits per character")
    print(continuation(gpt, reviews, "the film is "))
