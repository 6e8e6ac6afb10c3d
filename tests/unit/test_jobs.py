"""What of a picture counts: each job is its formula."""

import pytest
import torch

from unifusion.hidden_states import make_hidden_states
from unifusion.jobs import JOBS, READ_ONLY, TAPS, TOKENS, WHOLE, Job, borders, check_parts, named
from unifusion.jobs import with_jobs as with_rows

GRIDS = (((3, 4), (2, 2)), ((3, 3),))  # two views, one view


def with_jobs(hidden, names):
    return with_rows(hidden, [named(name) for name in names])


def hidden(taps=4, seed=0):
    roles = [1, *[16] * 16, 2, *[17] * 9, 2]
    states = torch.randn(1, len(roles), taps, 6, generator=torch.Generator().manual_seed(seed))
    return make_hidden_states(states, roles, [""] * len(roles), range(1, taps + 1), "x", grids=GRIDS)


def of(hidden, role):
    return hidden.states[0, hidden.roles == role]


def test_the_whole_picture_is_the_same_object():
    given = hidden()
    assert with_jobs(given, [WHOLE, WHOLE]) is given and with_jobs(given, []) is given


@pytest.mark.parametrize("job", [job for job in JOBS if job != WHOLE])
def test_a_job_touches_the_tokens_of_its_picture_alone(job):
    given = hidden()
    before = given.states.clone()
    changed = with_jobs(given, [WHOLE, job])
    others = given.roles != 17
    assert torch.equal(changed.states[:, others], before[:, others]) and torch.equal(given.states, before)
    assert (changed.weights[others] == 1).all()
    assert changed.tokens == given.tokens and changed.roles is given.roles


@pytest.mark.parametrize(("job", "means"), [("palette", (0, 1, 2, 3)), ("style", (2, 3)), ("layout", (0, 1))])
def test_statistics_over_places(job, means):
    """m[k] = mean over i of x[i, k], over both views of the picture."""
    before, after = of(hidden(), 16), of(with_jobs(hidden(), [job]), 16)
    for tap in range(4):
        mean = sum(before[i, tap] for i in range(16)) / 16
        expected = mean.expand(16, 6) if tap in means else before[:, tap]
        torch.testing.assert_close(after[:, tap], expected)


def test_one_tap_alone_has_no_shallow_half():
    given = hidden(taps=1)
    assert torch.equal(with_jobs(given, ["layout"]).states, given.states)
    torch.testing.assert_close(with_jobs(given, ["style"]).states, with_jobs(given, ["palette"]).states)


def test_the_subject_is_what_differs_from_the_border():
    given = hidden()
    at = (given.roles == 17).nonzero()[:, 0]
    states = given.states.clone()
    states[0, at] = torch.ones(4, 6) + 0.01 * states[0, at]
    states[0, at[4]] = -torch.ones(4, 6)  # the middle of 3 x 3
    changed = with_jobs(given._replace(states=states), [WHOLE, "subject"])
    assert changed.weights[at].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    plain = given._replace(states=torch.ones_like(states))
    assert (with_jobs(plain, ["subject", "subject"]).weights == 1).all()  # nothing differs: nothing is left out


def test_the_subject_keeps_strengths():
    given = hidden()
    weighted = given._replace(weights=torch.where(given.roles == 16, 2.5, 1.0))
    assert set(with_jobs(weighted, ["subject"]).weights.tolist()) == {0.0, 1.0, 2.5}


def test_read_not_shown_leaves_no_token():
    changed = with_jobs(hidden(), [READ_ONLY, WHOLE])
    assert (changed.weights[changed.roles == 16] == 0).all() and (changed.weights[changed.roles != 16] == 1).all()


def test_borders():
    assert borders([(3, 4), (2, 2), (1, 3)]).tolist() == [
        *[True] * 5,
        False,
        False,
        *[True] * 5,
        *[True] * 4,
        *[True] * 3,
    ]


def test_an_unknown_job_is_refused():
    with pytest.raises(ValueError, match="A picture has no job 'mood'; choose one of: whole, style"):
        with_jobs(hidden(), ["mood"])


@pytest.mark.parametrize("mean_at", TAPS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_combination_has_a_formula_and_acts(mean_at, tokens):
    check_parts(mean_at, tokens)
    job = Job("own", mean_at, tokens)
    changed = with_rows(hidden(), [None, job])
    assert ("no token" in job.formula) == (tokens == "none") and torch.isfinite(changed.states).all()
    count = int((changed.weights[changed.roles == 17] != 0).sum())
    assert count == {"all": 9, "none": 0}.get(tokens, count) and (tokens == "none" or count > 0)


def test_subject_and_ground_are_the_whole():
    parts = [with_rows(hidden(), [Job("own", tokens=tokens)]).weights for tokens in ("subject", "ground")]
    assert (parts[0] + parts[1] == torch.where(hidden().roles == 16, 1.0, 2.0)).all()


@pytest.mark.parametrize("parts", [("somewhere", "all"), ("deep", "some"), (3, "all"), ("deep", None)])
def test_parts_of_a_job_are_of_the_table(parts):
    with pytest.raises(ValueError, match="of a picture's job must be one of"):
        check_parts(*parts)
