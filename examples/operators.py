"""Use the operators directly: differentiable functions of tensors that agree with PyTorch's."""

import torch

import lmfast_kernels

torch.manual_seed(0)
x, weight = torch.randn(4, 64, requires_grad=True), torch.ones(64)
y = lmfast_kernels.rms_norm(x, weight)
torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, (64,), weight, eps=1e-5))

q = torch.randn(1, 4, 16, 32)  # (batch, heads, seq, head_dim)
k, v = torch.randn(2, 1, 2, 16, 32)  # two key and value heads for four query heads
out = lmfast_kernels.attention(q, k, v, window=8)
print("attention", tuple(out.shape))

head, targets = torch.randn(1000, 64), torch.randint(0, 1000, (4,))
loss, count = lmfast_kernels.linear_cross_entropy(y, head, targets)  # never stores all logits
(loss / count).backward()
print(f"loss {loss.item() / count.item():.3f} nats per token, gradient norm {x.grad.norm():.3f}")
