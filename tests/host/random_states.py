"""Hidden states of random numbers: a prompt with two pictures, of the size and scale of the small random encoder."""

import torch

TEXT, FIRST, SECOND = 2, 16, 17  # roles: instruction, image 1, image 2


def hidden_states(library, seed=0, lengths=((TEXT, 5), (FIRST, 6), (SECOND, 4), (TEXT, 3))):
    """States of a prompt with two pictures, of the size and scale of the small random encoder."""
    roles = [role for role, count in lengths for _ in range(count)]
    states = torch.randn(1, len(roles), 12, 160, generator=torch.Generator().manual_seed(seed)) * 3
    return library.make_hidden_states(
        states, roles, ["x"] * len(roles), range(2, 36, 3), "random", grids=(((2, 3),), ((2, 2),))
    )


def repeated(library, hidden, times: dict[int, int]):
    """The states of some roles given several times."""
    extra = [
        index
        for role, count in times.items()
        for _ in range(count - 1)
        for index in (hidden.roles == role).nonzero()[:, 0].tolist()
    ]
    order = torch.tensor([*range(hidden.tokens), *extra])
    return hidden._replace(
        states=hidden.states[:, order],
        roles=hidden.roles[order],
        weights=hidden.weights[order],
        spans=hidden.spans[order],
        pieces=tuple(hidden.pieces[i] for i in order),
    )


def weighted(library, hidden, times: dict[int, float]):
    for role, weight in times.items():
        hidden = library.with_weight(hidden, hidden.roles == role, weight)
    return hidden


def without(library, hidden, roles):
    return library.take(hidden, ~torch.isin(hidden.roles, torch.tensor(roles, dtype=torch.int16)))


def pool(bridge, model, positive, negative=None):
    """MODEL, positive and negative conditioning."""
    return bridge("actions.pool").run(model, positive, negative=negative)[:3]
