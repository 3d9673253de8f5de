"""The sign-gradient attack, on a loss whose best picture is known."""

import pytest
import torch

from safevlm_hf.studies.attacks.pgd import UNBOUNDED, Budget, add_noise, attack, num_steps


pytestmark = pytest.mark.ci


@pytest.fixture
def pictures():
    """Two of different sizes, some of whose pixels are black or white."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand((3, *size), generator=generator).mul(1.4).sub(0.2).clamp(0, 1) for size in ((4, 6), (5, 5))]


def darkness(found, rows):
    """The mean of the pixels: the darkest picture is the best one."""
    return torch.stack([one.mean() for one in found])


@pytest.mark.parametrize("epsilon", [2 / 255, 8 / 255, 0.5, UNBOUNDED])
def test_pixels_keep_to_their_bounds_and_the_loss_falls(pictures, epsilon):
    found = attack(darkness, pictures, Budget(epsilon, steps=20))
    for before, after in zip(pictures, found.pictures):
        assert (after - before).abs().max() <= epsilon + 1e-6 and after.min() >= 0 and after.max() <= 1
        torch.testing.assert_close(after, (before - epsilon).clamp(min=0))
    (curve,) = found.curves
    assert len(curve) == 21 and curve[0] > curve[-1] == pytest.approx(found.losses.mean().item())


def test_the_step_is_never_lost_in_8_bits():
    assert Budget(2 / 255, 100).step_size == 1 / 255
    assert Budget(UNBOUNDED, 100).step_size == 0.025


def test_the_best_of_all_steps_is_kept(pictures):
    """A loss that is lowest a little away from the picture, so that most steps overshoot."""
    targets = [one + 0.4 / 255 for one in pictures]

    def distance(found, rows):
        return torch.stack([(one - targets[row]).abs().mean() for one, row in zip(found, rows)])

    found = attack(distance, pictures, Budget(8 / 255, steps=7))
    torch.testing.assert_close(found.losses, distance(found.pictures, [0, 1]))
    assert found.losses.mean() == pytest.approx(min(found.curves[0]), rel=1e-3)


def test_what_is_good_enough_is_left_alone(pictures):
    asked, told = [], []

    def losses(found, rows):
        asked.append(list(rows))
        return torch.stack([one.mean() + row for one, row in zip(found, rows)])

    budget = Budget(8 / 255, steps=5)
    found = attack(losses, pictures, budget, enough=1.0, advance=told.append)
    assert asked == [[0, 1]] + [[1]] * 5 and torch.equal(found.pictures[0], pictures[0])
    assert sum(told) == num_steps(2, budget) == 12
    told.clear()
    attack(losses, pictures, Budget(8 / 255, steps=5, restarts=3), enough=9.0, advance=told.append)
    assert sum(told) == 36


def test_restarts_begin_elsewhere_and_never_make_it_worse(pictures):
    starts = []

    def losses(found, rows):
        starts.append(found[0].detach())
        return torch.stack([(9 * one).sin().mean() for one in found])

    alone = attack(losses, pictures, Budget(0.3, steps=3), seed=1)
    assert torch.equal(starts[0], pictures[0])
    several = attack(losses, pictures, Budget(0.3, steps=3, restarts=3), seed=1)
    assert len(several.curves) == 3 and (several.losses <= alone.losses).all()
    assert not torch.equal(starts[8], pictures[0]) and (starts[8] - pictures[0]).abs().max() <= 0.3 + 1e-6
    again = attack(losses, pictures, Budget(0.3, steps=3, restarts=3), seed=1)
    assert torch.equal(again.pictures[0], several.pictures[0])


def test_noise_is_within_epsilon(pictures):
    noisy = add_noise(pictures[0], 0.1, torch.Generator().manual_seed(3))
    change = (noisy - pictures[0]).abs()
    assert 0.05 < change.max() <= 0.1 + 1e-6 and noisy.min() >= 0 and noisy.max() <= 1


@pytest.mark.parametrize("loss", [lambda found, rows: torch.zeros(2), lambda found, rows: found[0].mean()[None]])
def test_a_gradient_that_does_not_arrive_is_an_error(pictures, loss):
    with pytest.raises(ValueError, match="no gradient arrives at the pixels"):
        attack(loss, pictures, Budget(8 / 255))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epsilon": 0}, "epsilon is 0, expected more than 0"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": 0.1, "steps": 0}, "steps is 0, expected at least 1"),
        ({"epsilon": 0.1, "restarts": 0}, "restarts is 0"),
    ],
)
def test_budgets_that_make_no_sense(values, said):
    with pytest.raises(ValueError, match=said):
        Budget(**values)
