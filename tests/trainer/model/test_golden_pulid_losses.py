"""PuLID's alignment and identity losses, with their gradients, against reference file 13."""

from __future__ import annotations

import pytest
import torch
from likeness.trainer.model.pulid_losses import REDUCTIONS, alignment_loss, identity_loss, text_response

TOLERANCE = {"rtol": 0, "atol": 1e-5}
NAMES = {"mean square": "mse_mean", "norm of each sample": "l2norm_per_sample_mean", "norm": "l2norm_whole_tensor"}


@pytest.fixture
def reference(golden):
    return golden("pulid", "13_loss_formulas")


def test_responses_of_the_text(reference):
    inputs, expected = reference.inputs(), reference.expected()
    for name in ("t", "tid"):
        response = text_response(inputs[f"Q_{name}"], inputs["K_text"])
        torch.testing.assert_close(response, expected[f"response_{name}"], **TOLERANCE)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("part", "weights"), [("sem", (1.0, 0.0)), ("layout", (0.0, 1.0))])
def test_parts_of_the_alignment_in_each_reduction(reference, part, weights, reduction):
    inputs, expected = reference.inputs(), reference.expected()
    loss = alignment_loss(inputs["Q_tid"], inputs["Q_t"], inputs["K_text"], *weights, reduction)
    torch.testing.assert_close(loss, expected[f"{part}.{NAMES[reduction]}"], **TOLERANCE)


def test_alignment_and_its_gradient(reference):
    inputs, expected = reference.inputs(), reference.expected()
    queries, plain = inputs["Q_tid"].requires_grad_(), inputs["Q_t"].requires_grad_()
    loss = alignment_loss(queries, plain, inputs["K_text"])
    torch.testing.assert_close(loss, expected["align.mse_mean.0.6_0.1"], **TOLERANCE)
    loss.backward()
    torch.testing.assert_close(queries.grad, expected["align.mse_mean.grad_Q_tid"], **TOLERANCE)
    assert plain.grad is None  # the run without the person is what it is


def test_identity_and_its_gradient(reference):
    inputs, expected = reference.inputs(), reference.expected()
    photo, picture = inputs["face_emb_ref"].requires_grad_(), inputs["face_emb_gen"].requires_grad_()
    loss = identity_loss(photo, picture)
    torch.testing.assert_close(loss, expected["id_loss.mean"], **TOLERANCE)
    loss.backward()
    torch.testing.assert_close(picture.grad, expected["id_loss.grad_gen"], **TOLERANCE)
    assert photo.grad is None
