"""Logits far from zero, exact in float32, so that only the loss itself rounds."""

import torch

import lmfast_kernels


def assert_large_logits(offset: float, z_loss: float, **options) -> None:
    """Loss and gradients of logits around `offset` are as accurate as around zero: within 1e-6, relatively.

    exp(logits − logsumexp) would be off by up to eps · |logsumexp|, 4e-6 at 100 and 5e-4 at 1e4. Each hidden row picks a
    column of weights that are multiples of 1/32, so the logits are exact.
    """
    rows, vocab = 4, 300
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(-128, 1, (vocab, rows), generator=generator) / 32 + offset
    targets = columns.argmax(0)
    targets[1] = columns[:, 1].argmin()
    grads = []
    for dtype in (torch.float32, torch.float64):
        hidden = torch.eye(rows, dtype=dtype, requires_grad=True)
        weight = columns.to(dtype).requires_grad_()
        if dtype == torch.float32:
            loss, _ = lmfast_kernels.linear_cross_entropy(hidden, weight, targets, z_loss=z_loss, **options)
        else:
            logits = hidden @ weight.t()
            lse = logits.logsumexp(-1)
            loss = (lse - logits.gather(1, targets[:, None])[:, 0] + z_loss * lse * lse).sum()
        grads.append((loss, torch.autograd.grad(loss, weight)[0]))  # dweight is dlogits, transposed
    (loss, gradient), (exact_loss, exact) = grads
    chosen = torch.nn.functional.one_hot(
        targets, vocab
    ).t()  # elements from which 1 is subtracted, with a rounding
    assert ((gradient - exact).abs() <= 1e-6 * (exact.abs() + 2 * chosen)).all()
    assert (loss - exact_loss).abs() <= 4e-7 * (exact_loss.abs() + rows)
