"""Landmarks and boxes that belong to a drawing, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from .features import nose_tip
from .framing import Look
from .geometry import project
from .identity import Identity


def landmarks_of(identity: Identity, look: Look) -> Tensor:
    """Eye centres, nose tip and mouth corners (P, 5, 2) in pixels of the patch."""
    half = identity.mouth_width * (1 + 0.20 * look.smile) * 0.92
    corner = identity.mouth_y - look.smile * 0.04
    _, tip = nose_tip(identity, look)
    zero = torch.zeros_like(half)
    x = torch.stack([-identity.eye_x, identity.eye_x, zero, -half, half], dim=1)
    y = torch.stack([identity.eye_y, identity.eye_y, tip, corner, corner], dim=1)
    out = torch.tensor([0.0, 0.0, 0.13, 0.0, 0.0])
    return project(identity.spread(1), look.spread(1), x, y, out)


def boxes_of(identity: Identity, look: Look) -> Tensor:
    """Boxes (P, 4) in pixels of the patch: forehead to chin, cheek to cheek.

    The numbers are a least-squares fit to the boxes that the bundled detector draws (docs/synthetic.md).
    """
    points = landmarks_of(identity, look)
    centre = points.mean(dim=1)
    eyes = torch.linalg.vector_norm(points[:, 1] - points[:, 0], dim=1)
    long = torch.linalg.vector_norm((points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]) / 2, dim=1)
    x = centre[:, 0] - 0.53 * look.yaw_sin * look.unit
    y = centre[:, 1] - 0.13 * look.unit
    half_width = ((0.30 + 0.60 * identity.width) * look.unit + 0.52 * eyes + 0.44 * long) / 2
    half_height = ((0.47 + 0.37 * identity.width) * look.unit + 0.64 * eyes + 0.92 * long) / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=1)
