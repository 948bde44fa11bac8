"""The start of expectation maximization: k-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapse.models.estimators import em
from collapse.seeding import generator, keyed_rng


def clouds(chains, n, *, distance):
    """Rows around three centers, ten times as many standard deviations apart as ``distance``, (R, n, 2)."""
    noise = torch.randn(chains, n, 2, dtype=torch.float64, generator=generator(2)) / 10
    return distance * torch.tensor([[0.0, 0.0], [3.0, 1.0], [-2.0, 4.0]]).double()[torch.arange(n) % 3] + noise


def test_centers_of_separated_clouds_are_found_in_every_replicate():
    x = clouds(500, 30, distance=100)
    with keyed_rng(1):
        centers = em.k_means(em.Rows(x, torch.ones(500, 30, dtype=torch.float64)), 3)
    order = centers[..., 0].argsort(1)[..., None].expand(-1, -1, 2)
    wanted = x.reshape(500, 10, 3, 2).mean(1)[:, [2, 0, 1]]
    torch.testing.assert_close(centers.gather(1, order), wanted)


def test_centers_are_the_means_of_what_is_nearest():
    x, mass = clouds(3, 80, distance=0.1), torch.rand(3, 80, dtype=torch.float64, generator=generator(3))
    with keyed_rng(2):
        centers = em.k_means(em.Rows(x, mass), 4)
    nearest = torch.cdist(x, centers).argmin(2)
    for replicate in range(3):
        for index in range(4):
            own = nearest[replicate] == index
            wanted = np.average(x[replicate, own], axis=0, weights=mass[replicate, own])
            np.testing.assert_allclose(centers[replicate, index], wanted, rtol=1e-12)


def test_first_centers_are_picked_by_squared_distance():
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64).expand(20_000, -1, -1)
    mass = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(20_000, -1) + 1e-300
    with keyed_rng(3), pytest.MonkeyPatch.context() as patch:
        patch.setattr(em, "LAPS", 0)
        assert (em.k_means(em.Rows(x, mass), 1) == 0).all()
        mass = torch.ones(20_000, 3, dtype=torch.float64)
        first, second = em.k_means(em.Rows(x, mass), 2).squeeze(2).T
    from_zero = second[first == 0]
    share = float((from_zero == 3).double().mean())  # 9 / (1 + 9)
    assert abs(share - 0.9) < 4.5 * (0.09 / len(from_zero)) ** 0.5
    assert abs(len(from_zero) / 20_000 - 1 / 3) < 4.5 * (2 / 9 / 20_000) ** 0.5


def test_a_center_without_rows_stays_and_its_component_has_no_weight():
    settings = em.Settings("full", 0.0, 1, 0.0)
    rows = em.Rows(clouds(2, 40, distance=1), torch.rand(2, 40, dtype=torch.float64, generator=generator(4)))
    far = torch.tensor([[0.0, 0.0], [50.0, 50.0]], dtype=torch.float64).expand(2, -1, -1)
    first = em.first_components(rows, far, settings)
    np.testing.assert_array_equal(first.weights, [[1.0, 0.0]] * 2)
    np.testing.assert_array_equal(first.mean[:, 1], far[:, 1])
    for replicate in range(2):
        wanted = np.cov(rows.x[replicate].T, aweights=rows.mass[replicate], ddof=0)
        np.testing.assert_allclose(first.covariance[replicate], [wanted] * 2, rtol=1e-10)


def test_equal_rows_give_equal_centers():
    rows = em.Rows(torch.ones(2, 5, 1, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64))
    with keyed_rng(0):
        assert (em.k_means(rows, 3) == 1).all()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("full", [[2.0, 0.5], [0.5, 4.0]]),
        ("diagonal", [[2.0, 0.0], [0.0, 4.0]]),
        ("spherical", [[3.0, 0.0], [0.0, 3.0]]),
    ],
)
def test_forms_of_covariances(name, wanted):
    covariance = torch.tensor([[[2.0, 0.5], [0.5, 4.0]]], dtype=torch.float64)
    assert em.COVARIANCES[name](covariance)[0].tolist() == wanted


def test_a_singular_covariance_has_a_factor():
    line = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    for covariance in (line, 1e-30 * line, torch.zeros(2, 2, dtype=torch.float64)):
        factor = em.factorize(covariance)
        torch.testing.assert_close(factor @ factor.T, covariance, rtol=1e-11, atol=1e-150)
        assert (factor.diagonal() > 0).all()
