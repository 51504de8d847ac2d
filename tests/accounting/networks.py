"""Layer tables of the published networks, and the rows of the RLx2 comparison."""

from sparserl_jax.layers import Layer, LayerTable


def network(*widths: int, copies: int = 1) -> LayerTable:
    last = len(widths) - 2
    stack = (copies,) if copies > 1 else ()
    return LayerTable(
        Layer(
            f"layer_{i}",
            (f"layer_{i}", "kernel"),
            (f"layer_{i}", "bias"),
            "dense",
            shape,
            stack,
            inputs=f"layer_{i - 1}" if i else "input",
            outputs=f"layer_{i}",
            output=i == last,
        )
        for i, shape in enumerate(zip(widths[:-1], widths[1:], strict=True))
    )


def actor(observation: int, outputs: int) -> LayerTable:
    return network(observation, 256, 256, outputs)


def critic(observation: int, action: int) -> LayerTable:
    return network(observation + action, 256, 256, 1, copies=2)


# Name, observation, action, outputs per action (SAC: 2), actor sparsity, model size, critic sparsity,
# training share.
ROWS = [
    ("TD3 HalfCheetah", 17, 6, 1, 0.90, 0.133, 0.85, 0.138),
    ("TD3 Hopper", 11, 3, 1, 0.98, 0.040, 0.95, 0.043),
    ("TD3 Walker2d", 17, 6, 1, 0.97, 0.043, 0.95, 0.045),
    ("TD3 Ant", 111, 8, 1, 0.96, 0.093, 0.88, 0.100),
    ("SAC HalfCheetah", 17, 6, 2, 0.90, 0.180, 0.80, 0.197),
    ("SAC Hopper", 11, 3, 2, 0.98, 0.044, 0.95, 0.048),
    ("SAC Walker2d", 17, 6, 2, 0.90, 0.100, 0.90, 0.113),
    ("SAC Ant", 111, 8, 2, 0.90, 0.220, 0.75, 0.239),
]
